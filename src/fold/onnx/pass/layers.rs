//! Which nodes are layers that absorb a map, and what they have absorbed.

use std::borrow::Cow;

use crate::fold::{Affine, Layer, LinearOp, Padding, Refusal, Side, Values};

use super::{
    super::{
        graph::Graph,
        node::{Node, NodeId},
        shapes::Shapes,
        tensor::{ElementType, Tensor},
    },
    maps::needed,
};

/// A weight: as it is stored, or the sum of those of merged branches.
#[derive(Debug, Clone)]
pub(in crate::fold::onnx) enum Weight<'m> {
    Stored(Tensor<'m>),
    Sum { values: Vec<f64>, bias: Vec<f64>, dims: Vec<usize>, element: ElementType },
}

/// A linear layer and what it has absorbed so far; nothing is computed until all of it is known.
#[derive(Debug, Clone)]
pub(in crate::fold::onnx) struct Linear<'m> {
    pub(in crate::fold::onnx) layer: Layer,
    pub(in crate::fold::onnx) weight: Weight<'m>,
    pub(in crate::fold::onnx) bias: Option<Tensor<'m>>,
    /// What the layer does to the product, if that is more than to add a bias: `alpha`, `beta` and `C` of a `Gemm`.
    pub(in crate::fold::onnx) own: Option<Affine>,
    pub(in crate::fold::onnx) input_axis: usize,
    pub(in crate::fold::onnx) output_axis: usize,
    pub(in crate::fold::onnx) padding: Padding,
    pub(in crate::fold::onnx) before: Option<Affine>,
    pub(in crate::fold::onnx) after: Option<Affine>,
    /// The nodes whose maps it has absorbed, in the order of absorption.
    pub(in crate::fold::onnx) absorbed: Vec<NodeId>,
}

impl Weight<'_> {
    pub(in crate::fold::onnx) fn dims(&self) -> &[usize] {
        match self {
            Self::Stored(tensor) => &tensor.dims,
            Self::Sum { dims, .. } => dims,
        }
    }

    pub(in crate::fold::onnx) const fn element(&self) -> ElementType {
        match self {
            Self::Stored(tensor) => tensor.element,
            Self::Sum { element, .. } => *element,
        }
    }

    fn values(&self) -> Option<Values<'_>> {
        match self {
            Self::Stored(tensor) => tensor.values(),
            Self::Sum { values, .. } => Some(values.into()),
        }
    }
}

impl Linear<'_> {
    pub(in crate::fold::onnx) const fn is_matmul_node(node: &Node<'_>) -> bool {
        matches!(node.op.as_bytes(), b"MatMul")
    }

    pub(in crate::fold::onnx) fn channels(&self, side: Side) -> usize {
        let dims = self.weight.dims();
        match (self.layer, side) {
            (Layer::Conv { .. } | Layer::Linear, Side::After)
            | (Layer::MatMul | Layer::ConvTranspose { .. }, Side::Before) => dims[0],
            (Layer::Conv { groups }, Side::Before) | (Layer::ConvTranspose { groups }, Side::After) => {
                dims[1].saturating_mul(groups)
            }
            (Layer::Linear, Side::Before) | (Layer::MatMul, Side::After) => dims[1],
        }
    }

    /// The layer as the algebra takes it.
    pub(in crate::fold::onnx) fn op(&self) -> LinearOp<'_> {
        let values = self.weight.values().unwrap_or(Values::F64(&[]));
        let op = LinearOp::new(self.layer, values, self.weight.dims());
        match (&self.weight, self.bias.as_ref().and_then(Tensor::values)) {
            (Weight::Sum { bias, .. }, _) => op.bias(bias),
            (Weight::Stored(_), Some(bias)) => op.bias(bias),
            (Weight::Stored(_), None) => op,
        }
    }

    /// All that follows the product.
    pub(in crate::fold::onnx) fn whole_after(&self) -> Result<Option<Affine>, Refusal> {
        Ok(match (&self.own, &self.after) {
            (Some(own), Some(after)) => Some(own.then(after)?),
            (Some(one), None) | (None, Some(one)) => Some(one.clone()),
            (None, None) => None,
        })
    }

    pub(in crate::fold::onnx) fn has_changed(&self) -> bool {
        self.before.is_some() || self.after.is_some() || matches!(self.weight, Weight::Sum { .. })
    }

    /// The bytes of the weight that are not the file's own.
    pub(in crate::fold::onnx) fn owned_bytes(&self) -> usize {
        match &self.weight {
            Weight::Stored(Tensor { data: Cow::Owned(data), .. }) => data.len(),
            Weight::Stored(_) => 0,
            Weight::Sum { values, .. } => size_of_val(&values[..]),
        }
    }

    pub(in crate::fold::onnx) fn absorb(&mut self, side: Side, map: Affine) -> Result<(), Refusal> {
        let (place, composed) = match side {
            Side::After => {
                let composed = self.after.as_ref().map_or_else(|| Ok(map.clone()), |after| after.then(&map))?;
                (&mut self.after, composed)
            }
            Side::Before => {
                let composed = self.before.as_ref().map_or_else(|| Ok(map.clone()), |before| map.then(before))?;
                (&mut self.before, composed)
            }
        };
        *place = Some(composed);
        Ok(())
    }
}

/// The linear layer that a node is. `None` where it is none.
pub(in crate::fold::onnx) fn layer_of<'m>(
    graph: &Graph<'m>,
    shapes: &Shapes,
    id: NodeId,
) -> Result<Option<Linear<'m>>, Refusal> {
    let node = graph.node(id);
    if !node.is(&["Conv", "ConvTranspose", "Gemm", "MatMul"]) {
        return Ok(None);
    }
    let invalid = |what: &str| Refusal::Invalid { node: graph.label(id), what: what.to_owned() };
    let weight_value = node.input(1).ok_or_else(|| invalid("it has no weight"))?;
    if let Some(producer) = graph.producer(weight_value)
        && graph.node(producer).is(&["DequantizeLinear"])
    {
        let value = graph.value(weight_value).name.to_string();
        return Err(Refusal::Quantized { layer: graph.label(id), value });
    }
    let weight = needed(graph, weight_value)?;
    if weight.element.dtype().is_none() {
        let value = graph.value(weight_value).name.to_string();
        return Err(Refusal::ElementType { value, found: weight.element.name() });
    }
    let groups = usize::try_from(node.int("group", 1)).map_err(|_| invalid("its group is negative"))?;
    let rank = weight.dims.len();
    let (layer, input_axis, output_axis) = match node.op {
        "Conv" => (Layer::Conv { groups }, 1, 1),
        "ConvTranspose" => (Layer::ConvTranspose { groups }, 1, 1),
        "Gemm" => {
            let layer = if node.int("transB", 0) != 0 { Layer::Linear } else { Layer::MatMul };
            // Transposed, the input has its channels on axis 0.
            (layer, usize::from(node.int("transA", 0) == 0), 1)
        }
        _ => {
            let data = node.input(0).ok_or_else(|| invalid("it has no input"))?;
            let unknown = || Refusal::UnknownShape { value: graph.value(data).name.to_string() };
            let rank = shapes.rank(data).filter(|&rank| rank >= 2).ok_or_else(unknown)?;
            (Layer::MatMul, rank - 1, rank - 1)
        }
    };
    if rank < 2 || matches!(layer, Layer::Linear | Layer::MatMul) && rank != 2 {
        return Err(invalid("its weight has another number of axes than such a layer's"));
    }
    // Of an empty weight no file pays for the channels.
    if weight.dims.contains(&0) || groups == 0 || !weight.dims[0].is_multiple_of(groups) {
        return Err(invalid("its group does not divide its channels, or there are none"));
    }
    let mut linear = Linear {
        layer,
        weight: Weight::Stored(weight),
        bias: None,
        own: None,
        input_axis,
        output_axis,
        padding: padding(node),
        before: None,
        after: None,
        absorbed: Vec::new(),
    };
    if let Some(bias) = node.input(2) {
        let tensor = needed(graph, bias)?;
        if tensor.element.dtype().is_none() {
            let value = graph.value(bias).name.to_string();
            return Err(Refusal::ElementType { value, found: tensor.element.name() });
        }
        linear.bias = Some(tensor);
    }
    if node.op == "Gemm" {
        let channels = linear.channels(Side::After);
        linear.own = Some(own_map(graph, node, linear.bias.take(), channels).map_err(|what| invalid(&what))?);
    }
    Ok(Some(linear))
}

fn padding(node: &Node<'_>) -> Padding {
    let pads = node.ints("pads").is_some_and(|pads| pads.iter().any(|&pad| pad != 0));
    // `SAME` may pad or not, by the size of the input.
    let auto = matches!(node.text("auto_pad"), Some("SAME_UPPER" | "SAME_LOWER"));
    if node.is(&["Conv", "ConvTranspose"]) && (pads || auto) { Padding::Zeros } else { Padding::None }
}

/// What a `Gemm` makes of the product: `alpha · product + beta · C`.
fn own_map(graph: &Graph<'_>, node: &Node<'_>, bias: Option<Tensor<'_>>, channels: usize) -> Result<Affine, String> {
    let alpha = f64::from(node.float("alpha", 1.0));
    let beta = f64::from(node.float("beta", 1.0));
    let scale = Affine::from_scale(&vec![alpha; channels]).map_err(|error| error.to_string())?;
    let Some(bias) = bias.filter(|_| beta != 0.0) else { return Ok(scale) };
    let is_per_channel = match bias.dims[..] {
        [] => true,
        [.., columns] => (columns == 1 || columns == channels) && bias.len() == columns,
    };
    if !is_per_channel || graph.opset < 7 && bias.dims.len() < 2 && node.int("broadcast", 0) == 0 {
        return Err(format!("its C, of shape {:?}, is not of one number a channel", bias.dims));
    }
    let values = bias.values().ok_or("its C is not floating-point")?.to_vec();
    let shift: Vec<f64> =
        (0..channels).map(|channel| beta * values[if values.len() == 1 { 0 } else { channel }]).collect();
    scale.then(&Affine::from_shift(&shift).map_err(|error| error.to_string())?).map_err(|error| error.to_string())
}
