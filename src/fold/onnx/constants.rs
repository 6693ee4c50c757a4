//! Values that are the same whatever the model is given: initializers, and what constant nodes make of them.

use std::borrow::Cow;

use half::{bf16, f16};

use super::{
    graph::{Graph, Integers},
    node::{Node, NodeId, ValueId},
    tensor::{ElementType, Tensor, count},
};
use crate::element::Element;
use crate::fold::models::ModelError;

/// How many nodes may make a constant; one that is read twice counts twice.
const MOST_NODES: usize = 64;
/// The elements that `ConstantOfShape` may make, as nothing in the file pays for them.
const MOST_ELEMENTS: usize = if cfg!(fuzzing) { 1 << 12 } else { 1 << 24 };

/// Why a value is not a constant that can be used.
#[derive(Debug)]
pub(super) enum NotConstant {
    /// It depends on the model's input.
    Computed,
    /// It is an initializer that whoever runs the model may replace.
    Overridable,
    /// It cannot be read.
    Unreadable(ModelError),
}

impl From<ModelError> for NotConstant {
    fn from(error: ModelError) -> Self {
        Self::Unreadable(error)
    }
}

impl<'m> Graph<'m> {
    /// Whether whoever runs the model may give another value. Before IR version 4 every initializer is listed as an input,
    /// so that says nothing.
    pub(super) fn is_overridable(&self, value: ValueId) -> bool {
        self.value(value).is_input && self.ir_version >= 4 && !self.freezes_inputs
    }

    /// The value as a tensor, if it is constant.
    pub(super) fn constant(&self, value: ValueId) -> Result<Tensor<'m>, NotConstant> {
        self.constant_within(value, &mut MOST_NODES.clone())
    }

    /// Whether the value is made by nodes of constants alone; cheaper than [`Self::constant`].
    pub(super) fn is_constant(&self, value: ValueId) -> bool {
        self.is_constant_within(value, &mut MOST_NODES.clone())
    }

    fn is_constant_within(&self, value: ValueId, left: &mut usize) -> bool {
        let of = self.value(value);
        match of.producer {
            _ if of.initializer.is_some() || self.computed.contains_key(&value) => true,
            Some((node, _)) if self.makes_constants(node) && take_one(left) => {
                self.node(node).inputs.iter().flatten().all(|&input| self.is_constant_within(input, left))
            }
            _ => false,
        }
    }

    fn makes_constants(&self, node: NodeId) -> bool {
        const OPS: [&str; 8] =
            ["Constant", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "ConstantOfShape"];
        self.node(node).is(&OPS)
    }

    fn constant_within(&self, value: ValueId, left: &mut usize) -> Result<Tensor<'m>, NotConstant> {
        let of = self.value(value);
        if self.is_overridable(value) && of.initializer.is_some() {
            return Err(NotConstant::Overridable);
        }
        if let Some(message) = of.initializer {
            return Ok(Tensor::read(message, self.externals)?);
        }
        if let Some(integers) = self.computed.get(&value) {
            return Ok(integers.tensor());
        }
        let Some((id, 0)) = of.producer.filter(|_| take_one(left)) else { return Err(NotConstant::Computed) };
        let node = self.node(id);
        let mut input = |index| {
            let input = node.input(index).ok_or(NotConstant::Computed)?;
            self.constant_within(input, left)
        };
        if !self.makes_constants(id) {
            return Err(NotConstant::Computed);
        }
        match node.op {
            "Constant" => constant_node(node, self),
            "Identity" => input(0),
            "Cast" => cast(input(0)?, ElementType::of(node.int("to", 0))),
            "ConstantOfShape" => constant_of_shape(node, &input(0)?, self),
            "Transpose" => transpose(input(0)?, node.ints("perm")),
            "Reshape" => {
                let data = input(0)?;
                let shape = input(1)?.ints().ok_or(NotConstant::Computed)?;
                reshape(data, &shape, node.int("allowzero", 0) != 0)
            }
            _ => {
                let data = input(0)?;
                let axes = match (node.ints("axes"), node.input(1)) {
                    (Some(axes), _) => Some(axes.to_vec()),
                    (None, Some(_)) => Some(input(1)?.ints().ok_or(NotConstant::Computed)?),
                    (None, None) => None,
                };
                let dims = match node.op {
                    "Squeeze" => squeezed(&data.dims, axes.as_deref()),
                    _ => unsqueezed(&data.dims, axes.as_deref().unwrap_or_default()),
                };
                Ok(Tensor { dims: dims.ok_or(NotConstant::Computed)?, ..data })
            }
        }
    }
}

/// Takes one from what is left, if there is any.
const fn take_one(left: &mut usize) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

impl Integers {
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn tensor<'m>(&self) -> Tensor<'m> {
        Tensor { element: ElementType::I64, dims: self.dims.clone(), data: Cow::Owned(self.bytes()) }
    }
}

fn constant_node<'m>(node: &Node<'m>, graph: &Graph<'m>) -> Result<Tensor<'m>, NotConstant> {
    if let Some(message) = node.attribute("value").and_then(|attribute| attribute.tensor) {
        return Ok(Tensor::read(message, graph.externals)?);
    }
    let of = |element, dims, data: Vec<u8>| Ok(Tensor { element, dims, data: Cow::Owned(data) });
    if let Some(value) = node.attribute("value_float").and_then(|attribute| attribute.f) {
        return of(ElementType::F32, Vec::new(), value.to_le_bytes().to_vec());
    }
    if let Some(value) = node.attribute("value_int").and_then(|attribute| attribute.i) {
        return of(ElementType::I64, Vec::new(), value.to_le_bytes().to_vec());
    }
    if let Some(attribute) = node.attribute("value_floats") {
        return of(ElementType::F32, vec![attribute.floats.len() / 4], attribute.floats.clone());
    }
    if let Some(values) = node.ints("value_ints") {
        return of(ElementType::I64, vec![values.len()], values.iter().flat_map(|value| value.to_le_bytes()).collect());
    }
    Err(NotConstant::Computed)
}

fn constant_of_shape<'m>(node: &Node<'m>, shape: &Tensor<'m>, graph: &Graph<'m>) -> Result<Tensor<'m>, NotConstant> {
    let fill = match node.attribute("value").and_then(|attribute| attribute.tensor) {
        Some(message) => Tensor::read(message, graph.externals)?,
        None => Tensor { element: ElementType::F32, dims: vec![1], data: Cow::Borrowed(&[0; 4]) },
    };
    let dims = shape.ints().ok_or(NotConstant::Computed)?;
    let dims = dims.into_iter().map(|dim| usize::try_from(dim).ok()).collect::<Option<Vec<_>>>();
    let dims = dims.filter(|dims| fill.len() == 1 && count(dims).is_some_and(|len| len <= MOST_ELEMENTS));
    let dims = dims.ok_or(NotConstant::Computed)?;
    let data = fill.data.repeat(dims.iter().product());
    Ok(Tensor { element: fill.element, dims, data: Cow::Owned(data) })
}

/// The numbers of a tensor, exactly for all but large integers.
#[expect(clippy::cast_precision_loss, reason = "a cast of ONNX rounds too")]
pub(super) fn numbers(tensor: &Tensor<'_>) -> Option<Vec<f64>> {
    match tensor.values() {
        Some(values) => Some(values.to_vec()),
        None => Some(tensor.ints()?.into_iter().map(|value| value as f64).collect()),
    }
}

fn cast(tensor: Tensor<'_>, to: ElementType) -> Result<Tensor<'_>, NotConstant> {
    if tensor.element == to {
        return Ok(tensor);
    }
    let numbers = numbers(&tensor).ok_or(NotConstant::Computed)?.into_iter();
    #[expect(clippy::cast_possible_truncation, reason = "as a cast does")]
    let data = match to {
        ElementType::F32 => numbers.flat_map(|value| f32::from_f64(value).to_le_bytes()).collect(),
        ElementType::F16 => numbers.flat_map(|value| <f16 as Element>::from_f64(value).to_le_bytes()).collect(),
        ElementType::Bf16 => numbers.flat_map(|value| <bf16 as Element>::from_f64(value).to_le_bytes()).collect(),
        ElementType::F64 => numbers.flat_map(f64::to_le_bytes).collect(),
        ElementType::I64 => numbers.flat_map(|value| (value as i64).to_le_bytes()).collect(),
        ElementType::I32 | ElementType::Other(_) => return Err(NotConstant::Computed),
    };
    Ok(Tensor { element: to, data: Cow::Owned(data), ..tensor })
}

fn transpose<'m>(tensor: Tensor<'m>, perm: Option<&[i64]>) -> Result<Tensor<'m>, NotConstant> {
    let rank = tensor.dims.len();
    let perm = permutation(perm, rank).ok_or(NotConstant::Computed)?;
    let size = tensor.element.size().ok_or(NotConstant::Computed)?;
    let dims: Vec<usize> = perm.iter().map(|&axis| tensor.dims[axis]).collect();
    let mut strides = vec![1; rank];
    for axis in (1..rank).rev() {
        strides[axis - 1] = strides[axis] * tensor.dims[axis];
    }
    let mut data = Vec::with_capacity(tensor.data.len());
    let mut at = vec![0; rank];
    for _ in 0..tensor.len() {
        let from = size * at.iter().zip(&perm).map(|(at, &axis)| at * strides[axis]).sum::<usize>();
        data.extend_from_slice(&tensor.data[from..from + size]);
        for axis in (0..rank).rev() {
            at[axis] += 1;
            if at[axis] < dims[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    Ok(Tensor { dims, data: Cow::Owned(data), ..tensor })
}

/// The axes in the order that `Transpose` gives them: by default the reverse.
pub(super) fn permutation(perm: Option<&[i64]>, rank: usize) -> Option<Vec<usize>> {
    let Some(perm) = perm else { return Some((0..rank).rev().collect()) };
    let axes = perm.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<Vec<_>>>()?;
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..rank).then_some(axes)
}

fn reshape<'m>(tensor: Tensor<'m>, shape: &[i64], allow_zero: bool) -> Result<Tensor<'m>, NotConstant> {
    let given: Vec<_> = tensor.dims.iter().map(|&dim| Some(dim)).collect();
    let dims = reshaped(&given, shape, allow_zero).and_then(|dims| dims.into_iter().collect::<Option<Vec<_>>>());
    let dims = dims.filter(|dims| count(dims) == Some(tensor.len())).ok_or(NotConstant::Computed)?;
    Ok(Tensor { dims, ..tensor })
}

/// The shape that `Reshape` gives, as far as it is known.
pub(super) fn reshaped(given: &[Option<usize>], shape: &[i64], allow_zero: bool) -> Option<Vec<Option<usize>>> {
    let mut dims = Vec::new();
    for (axis, &dim) in shape.iter().enumerate() {
        dims.push(match dim {
            0 if !allow_zero => *given.get(axis)?,
            dim => usize::try_from(dim).ok(),
        });
    }
    if let Some(free) = shape.iter().position(|&dim| dim == -1) {
        // Axes that both have, known or not, cancel.
        let product = |dims: &[Option<usize>]| {
            let counted = |&(axis, _): &(usize, _)| allow_zero || shape.get(axis) != Some(&0);
            let lens = dims.iter().enumerate().filter(counted);
            lens.filter(|&(_, dim)| *dim != Some(FREE))
                .try_fold(1_usize, |product, (_, &dim)| product.checked_mul(dim?))
        };
        dims[free] = Some(FREE);
        dims[free] = product(given).zip(product(&dims)).and_then(|(all, others)| all.checked_div(others));
    }
    Some(dims)
}

/// Stands for the axis that takes what is left; no axis is as long.
const FREE: usize = usize::MAX;

/// An axis that may count from the end.
pub(super) fn axis_of(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&axis| (axis as u64) < rank as u64)
}

/// The axes that a reduction goes over: where none are named all, unless it is to do nothing then.
pub(super) fn reduced_axes(node: &Node<'_>, named: Option<&[i64]>, rank: usize) -> Option<Vec<usize>> {
    match named.unwrap_or_default() {
        [] if node.int("noop_with_empty_axes", 0) != 0 => Some(Vec::new()),
        [] => Some((0..rank).collect()),
        axes => axes.iter().map(|&axis| axis_of(axis, rank)).collect(),
    }
}

pub(super) fn squeezed<D: Copy + PartialEq + Length>(dims: &[D], axes: Option<&[i64]>) -> Option<Vec<D>> {
    let dropped = match axes {
        Some(axes) => axes.iter().map(|&axis| axis_of(axis, dims.len())).collect::<Option<Vec<_>>>()?,
        None => (0..dims.len()).filter(|&axis| dims[axis] == D::ONE).collect(),
    };
    Some((0..dims.len()).filter(|axis| !dropped.contains(axis)).map(|axis| dims[axis]).collect())
}

pub(super) fn unsqueezed<D: Copy + Length>(dims: &[D], axes: &[i64]) -> Option<Vec<D>> {
    let rank = dims.len() + axes.len();
    let added = axes.iter().map(|&axis| axis_of(axis, rank)).collect::<Option<Vec<_>>>()?;
    let mut rest = dims.iter();
    (0..rank).map(|axis| if added.contains(&axis) { Some(D::ONE) } else { rest.next().copied() }).collect()
}

/// A length of an axis, known or perhaps not.
pub(super) trait Length {
    const ONE: Self;
}

impl Length for usize {
    const ONE: Self = 1;
}

impl Length for Option<usize> {
    const ONE: Self = Some(1);
}
