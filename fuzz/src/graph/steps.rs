//! The nodes that a graph is made of.

use arbitrary::Result;

use super::{Generator, HIGHEST_DEGREE, Live, MOST_ELEMENTS};
use crate::writer::{FLOAT, INT64, Value};

impl Generator<'_, '_> {
    /// Attributes of a window, and how much of each axis it covers: `(len + pads - extent, stride)`.
    fn window(&mut self, spatial: &[usize], kernel: &[usize]) -> Result<Window> {
        let rank = spatial.len();
        let mut window = Window { strides: vec![1; rank], dilations: vec![1; rank], pads: vec![0; 2 * rank] };
        for axis in 0..rank {
            if self.u.ratio(1, 4)? {
                window.strides[axis] = 2;
            }
            if self.u.ratio(1, 6)? && (kernel[axis] - 1) * 2 < spatial[axis] {
                window.dilations[axis] = 2;
            }
            if kernel[axis] > 1 {
                window.pads[axis] = self.up_to(0, 1)?;
                window.pads[axis + rank] = self.up_to(0, 1)?;
            }
        }
        Ok(window)
    }

    fn kernel(&mut self, spatial: &[usize]) -> Result<Vec<usize>> {
        let is_point = self.u.ratio(1, 3)?;
        spatial.iter().map(|&len| if is_point { Ok(1) } else { self.up_to(1, len.min(3)) }).collect()
    }

    pub(super) fn convolution(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let (channels, spatial) = (dims[1], &dims[2..]);
        let groups = self.groups(channels)?;
        let outputs = if self.u.ratio(1, 2)? { channels } else { groups * self.up_to(1, 3)? };
        let kernel = self.kernel(spatial)?;
        let window = self.window(spatial, &kernel)?;
        let auto = if self.u.ratio(1, 8)? { *self.u.choose(&["SAME_UPPER", "SAME_LOWER", "VALID"])? } else { "" };
        let len = |axis: usize| {
            let extent = window.extent(axis, &kernel);
            match auto {
                "" => (spatial[axis] + window.padding(axis) - extent) / window.strides[axis] + 1,
                "VALID" => (spatial[axis] - extent) / window.strides[axis] + 1,
                _ => spatial[axis].div_ceil(window.strides[axis]),
            }
        };
        let to = [vec![dims[0], outputs], (0..spatial.len()).map(len).collect()].concat();
        let weight = self.constant(&[vec![outputs, channels / groups], kernel].concat())?;
        self.layer("Conv", x, &weight, outputs, groups, &window, auto, to)
    }

    pub(super) fn transposed_convolution(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let (channels, spatial) = (dims[1], &dims[2..]);
        let groups = self.groups(channels)?;
        let per_group = self.up_to(1, 3)?;
        let kernel = self.kernel(spatial)?;
        let window = self.window(spatial, &kernel)?;
        let len = |axis: usize| {
            let whole = (spatial[axis] - 1) * window.strides[axis] + window.extent(axis, &kernel);
            whole.saturating_sub(window.padding(axis))
        };
        let to = [vec![dims[0], per_group * groups], (0..spatial.len()).map(len).collect()].concat();
        if to.contains(&0) || to.iter().product::<usize>() > MOST_ELEMENTS {
            return self.elementwise(x, dims.to_vec());
        }
        let weight = self.constant(&[vec![channels, per_group], kernel].concat())?;
        self.layer("ConvTranspose", x, &weight, per_group * groups, groups, &window, "", to)
    }

    #[expect(clippy::too_many_arguments, reason = "all that both kinds of convolution have")]
    fn layer(
        &mut self,
        op: &str,
        x: usize,
        weight: &str,
        outputs: usize,
        groups: usize,
        window: &Window,
        auto: &str,
        to: Vec<usize>,
    ) -> Result<()> {
        let bias = match self.up_to(0, 4)? {
            0 | 1 => None,
            2 => Some(String::new()),
            _ => Some(self.constant(&[outputs])?),
        };
        let constants: Vec<_> = [weight].into_iter().chain(bias.as_deref()).collect();
        let (strides, dilations) = (self.ints(&window.strides)?, self.ints(&window.dilations)?);
        let (pads, groups) = (self.ints(&window.pads)?, self.int(groups)?);
        let mut attributes = vec![("group", Value::Int(groups))];
        attributes.extend([("strides", Value::Ints(&strides)), ("dilations", Value::Ints(&dilations))]);
        attributes.push(if auto.is_empty() { ("pads", Value::Ints(&pads)) } else { ("auto_pad", Value::Text(auto)) });
        self.apply(op, &[x], &constants, &attributes, to)
    }

    fn groups(&mut self, channels: usize) -> Result<usize> {
        let divisors: Vec<_> = (1..=channels).filter(|&groups| channels.is_multiple_of(groups)).collect();
        if self.u.ratio(1, 3)? { Ok(*self.u.choose(&divisors)?) } else { Ok(1) }
    }

    pub(super) fn batch_norm(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let channels = dims[1];
        let (weight, bias, mean) =
            (self.constant(&[channels])?, self.constant(&[channels])?, self.constant(&[channels])?);
        let var: Vec<_> = self.numbers(channels)?.into_iter().map(|value| value.abs() + 0.1).collect();
        let var = self.add_constant(&[channels], &var, self.element);
        let mut attributes = vec![("epsilon", Value::Float(*self.u.choose(&[1e-5, 1e-3, 0.0])?))];
        if self.opset < 7 {
            attributes.push(("is_test", Value::Int(1)));
        }
        self.apply("BatchNormalization", &[x], &[&weight, &bias, &mean, &var], &attributes, dims.to_vec())
    }

    /// Arithmetic with a constant.
    pub(super) fn arithmetic(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let rank = dims.len();
        let channel = |rank_of: usize, axis: usize| {
            let mut shape = vec![1; rank_of];
            shape[axis + rank_of - rank] = dims[axis];
            shape
        };
        let shape = match self.up_to(0, 7)? {
            0..=2 => channel(rank - 1, 1),
            3 => channel(rank, 1),
            4 => Vec::new(),
            5 => vec![1],
            6 => vec![dims[rank - 1]],
            _ => channel(rank, self.u.choose_index(rank)?),
        };
        let op = *self.u.choose(&["Mul", "Add", "Sub", "Div"])?;
        let is_first = self.opset >= 7 && self.u.ratio(1, 4)? && op != "Div";
        let constant = if op == "Div" {
            // Divided by a number close to 0, nothing is left to compare.
            let numbers = self.numbers(shape.iter().product())?;
            let numbers: Vec<_> = numbers.into_iter().map(|value| value + 0.5_f64.copysign(value)).collect();
            self.add_constant(&shape, &numbers, self.element)
        } else {
            self.constant(&shape)?
        };
        let attributes = if self.opset < 7 { vec![("broadcast", Value::Int(1))] } else { Vec::new() };
        let data = self.live[x].name.clone();
        let inputs = if is_first { [&*constant, &*data] } else { [&*data, &*constant] };
        self.note(op, &inputs, &[x], &attributes, dims.to_vec())
    }

    pub(super) fn elementwise(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
        let op = *self.u.choose(&["Relu", "Identity", "Dropout", "LeakyRelu", "Sigmoid", "Identity"])?;
        let is_test = [("is_test", Value::Int(1))];
        let attributes = if self.opset < 7 && op == "Dropout" { &is_test[..] } else { &[] };
        self.apply(op, &[x], &[], attributes, dims)
    }

    /// Two values of one shape, or of shapes that are broadcast.
    pub(super) fn of_two(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
        let fits = |other: &Live| {
            other.dims.len() == dims.len()
                && other.dims.iter().zip(&dims).all(|(&other, &own)| other == own || self.opset >= 7 && other == 1)
        };
        let others: Vec<_> = (0..self.live.len()).filter(|&index| fits(&self.live[index])).collect();
        let other = *self.u.choose(&others)?;
        let mut op = *self.u.choose(&["Add", "Add", "Sum", "Sub", "Mul"])?;
        if op == "Mul" && self.live[x].degree + self.live[other].degree > HIGHEST_DEGREE
            || op == "Sum" && self.opset < 8 && self.live[other].dims != dims
        {
            op = "Add";
        }
        if op == "Sum" && self.u.ratio(1, 3)? {
            return self.apply(op, &[x, other, x], &[], &[], dims);
        }
        self.apply(op, &[x, other], &[], &[], dims)
    }

    pub(super) fn concat(&mut self, x: usize, mut dims: Vec<usize>) -> Result<()> {
        let axis = if self.u.ratio(3, 4)? { 1 } else { self.u.choose_index(dims.len())? };
        let is_alike = |other: &Live| {
            other.dims.len() == dims.len()
                && (0..dims.len()).all(|index| index == axis || other.dims[index] == dims[index])
        };
        let others: Vec<_> = (0..self.live.len()).filter(|&index| is_alike(&self.live[index])).collect();
        let mut parts = vec![x];
        for _ in 0..self.up_to(1, 2)? {
            parts.push(*self.u.choose(&others)?);
        }
        dims[axis] = parts.iter().map(|&part| self.live[part].dims[axis]).sum();
        if dims.iter().product::<usize>() > MOST_ELEMENTS || dims[1] > 16 {
            return self.elementwise(x, self.live[x].dims.clone());
        }
        let stated = if self.u.ratio(1, 4)? { axis as i64 - dims.len() as i64 } else { axis as i64 };
        let stated = if self.is_wild && self.u.ratio(1, 8)? { self.wild()? } else { stated };
        self.apply("Concat", &parts, &[], &[("axis", Value::Int(stated))], dims)
    }

    pub(super) fn pool(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let spatial = &dims[2..];
        let op = *self.u.choose(&["AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool"])?;
        if op.starts_with("Global") {
            let to = [&dims[..2], &vec![1; spatial.len()]].concat();
            return self.apply(op, &[x], &[], &[], to);
        }
        let kernel = self.kernel(spatial)?;
        let mut window = self.window(spatial, &kernel)?;
        window.dilations.fill(1);
        let ceil = self.opset >= 10 && self.u.ratio(1, 4)?;
        let len = |axis: usize| {
            let room = spatial[axis] + window.padding(axis) - kernel[axis];
            let stride = window.strides[axis];
            if !ceil {
                return room / stride + 1;
            }
            let positions = room.div_ceil(stride) + 1;
            let starts_inside = (positions - 1) * stride < spatial[axis] + window.pads[axis];
            if starts_inside { positions } else { positions - 1 }
        };
        let to = [dims[..2].to_vec(), (0..spatial.len()).map(len).collect()].concat();
        let (strides, pads, kernel) = (self.ints(&window.strides)?, self.ints(&window.pads)?, self.ints(&kernel)?);
        let mut attributes = vec![("kernel_shape", Value::Ints(&kernel)), ("strides", Value::Ints(&strides))];
        attributes.extend([("pads", Value::Ints(&pads)), ("ceil_mode", Value::Int(i64::from(ceil)))]);
        if op == "AveragePool" && self.opset >= 7 {
            attributes.push(("count_include_pad", Value::Int(i64::from(self.u.arbitrary::<bool>()?))));
        }
        self.apply(op, &[x], &[], &attributes, to)
    }

    /// Shape constants are attributes until opset 12, and inputs from 13 on.
    fn with_axes(
        &mut self,
        op: &str,
        x: usize,
        axes: &[usize],
        since: i64,
        keeps: Option<bool>,
        to: Vec<usize>,
    ) -> Result<()> {
        let axes = self.ints(axes)?;
        let keeps = keeps.map(|keeps| ("keepdims", Value::Int(i64::from(keeps))));
        if self.opset < since {
            let attributes: Vec<_> = [("axes", Value::Ints(&axes))].into_iter().chain(keeps).collect();
            return self.apply(op, &[x], &[], &attributes, to);
        }
        let axes: Vec<_> = axes.into_iter().map(|axis| axis as f64).collect();
        let axes = self.add_constant(&[axes.len()], &axes, INT64);
        self.apply(op, &[x], &[&axes], &keeps.into_iter().collect::<Vec<_>>(), to)
    }

    pub(super) fn reshape(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let rank = dims.len();
        let shape = match self.up_to(0, 6)? {
            0 => {
                let axis = if self.u.ratio(2, 3)? { 1 } else { self.up_to(0, rank)? };
                let to = vec![dims[..axis].iter().product(), dims[axis..].iter().product()];
                let axis = self.int(axis)?;
                return self.apply("Flatten", &[x], &[], &[("axis", Value::Int(axis))], to);
            }
            1 => {
                let ones: Vec<_> = (2..rank).filter(|&axis| dims[axis] == 1).collect();
                let to = (0..rank).filter(|axis| !ones.contains(axis)).map(|axis| dims[axis]).collect();
                return self.with_axes("Squeeze", x, &ones, 13, None, to);
            }
            2 if rank < 5 => {
                let axis = self.up_to(0, rank)?;
                let mut to = dims.to_vec();
                to.insert(axis, 1);
                return self.with_axes("Unsqueeze", x, &[axis], 13, None, to);
            }
            // To two axes; axes merged; an axis split.
            3 => vec![dims[0], dims[1..].iter().product()],
            4 if rank > 2 => [&dims[..rank - 2], &[dims[rank - 2] * dims[rank - 1]]].concat(),
            5 => {
                let axis = self.u.choose_index(rank)?;
                let parts: Vec<_> = (1..=dims[axis]).filter(|&part| dims[axis].is_multiple_of(part)).collect();
                let part = *self.u.choose(&parts)?;
                [&dims[..axis], &[part, dims[axis] / part], &dims[axis + 1..]].concat()
            }
            _ => [&dims[..1], &dims[2..], &dims[1..2]].concat(),
        };
        if shape.len() > 5 {
            return self.elementwise(x, dims.to_vec());
        }
        let mut stated = self.ints(&shape)?;
        if let Some(first) = stated.first_mut()
            && shape[0] == dims[0]
            && self.u.ratio(1, 2)?
        {
            *first = 0;
        }
        if self.u.ratio(1, 2)? && stated.len() > 1 {
            let free = self.up_to(1, stated.len() - 1)?;
            stated[free] = -1;
        }
        let stated: Vec<_> = stated.into_iter().map(|dim| dim as f64).collect();
        let name = self.add_constant(&[stated.len()], &stated, INT64);
        self.apply("Reshape", &[x], &[&name], &[], shape)
    }

    pub(super) fn transpose(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let mut perm: Vec<_> = (0..dims.len()).collect();
        for last in (1..perm.len()).rev() {
            let other = self.up_to(0, last)?;
            perm.swap(last, other);
        }
        let to = perm.iter().map(|&axis| dims[axis]).collect();
        let perm = self.ints(&perm)?;
        self.apply("Transpose", &[x], &[], &[("perm", Value::Ints(&perm))], to)
    }

    pub(super) fn product(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let rank = dims.len();
        if rank != 2 || self.u.ratio(1, 2)? {
            let (depth, columns) = (dims[rank - 1], self.up_to(1, 6)?);
            let weight = self.constant(&[depth, columns])?;
            return self.apply("MatMul", &[x], &[&weight], &[], [&dims[..rank - 1], &[columns]].concat());
        }
        let is_turned = self.u.ratio(1, 4)?;
        let (rows, depth) = if is_turned { (dims[1], dims[0]) } else { (dims[0], dims[1]) };
        let columns = self.up_to(1, 6)?;
        let weight_turned: bool = self.u.arbitrary()?;
        let weight = self.constant(&if weight_turned { [columns, depth] } else { [depth, columns] })?;
        let shapes = [vec![columns], vec![1, columns], vec![1], vec![], vec![rows, columns], vec![rows, 1]];
        let shape = self.u.choose(&shapes)?.clone();
        let bias = if self.opset < 11 || self.u.ratio(2, 3)? { Some(self.constant(&shape)?) } else { None };
        let mut attributes = vec![("transA", Value::Int(i64::from(is_turned)))];
        attributes.push(("transB", Value::Int(i64::from(weight_turned))));
        for name in ["alpha", "beta"] {
            if self.u.ratio(1, 3)? {
                attributes.push((name, Value::Float(*self.u.choose(&[0.5, -2.0, 0.0, 1.0])?)));
            }
        }
        if self.opset < 7 {
            attributes.push(("broadcast", Value::Int(1)));
        }
        let constants: Vec<_> = [&*weight].into_iter().chain(bias.as_deref()).collect();
        self.apply("Gemm", &[x], &constants, &attributes, vec![rows, columns])
    }

    pub(super) fn mean(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
        let rank = dims.len();
        let axes: Vec<_> =
            if self.u.ratio(1, 2)? && rank > 2 { (2..rank).collect() } else { vec![self.up_to(0, rank - 1)?] };
        let keeps = rank - axes.len() < 2 || self.u.arbitrary()?;
        let kept = |axis: usize| match (axes.contains(&axis), keeps) {
            (false, _) => Some(dims[axis]),
            (true, true) => Some(1),
            (true, false) => None,
        };
        let to = (0..rank).filter_map(kept).collect();
        self.with_axes("ReduceMean", x, &axes, 18, Some(keeps), to)
    }

    pub(super) fn resize(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
        let (rank, channels) = (dims.len(), dims[1]);
        if rank == 4 && channels.is_multiple_of(4) && self.u.ratio(1, 2)? {
            let to = vec![dims[0], channels / 4, 2 * dims[2], 2 * dims[3]];
            let mode = if self.opset >= 11 && self.u.arbitrary()? { "CRD" } else { "DCR" };
            let block = self.int(2)?;
            let attributes = [("blocksize", Value::Int(block)), ("mode", Value::Text(mode))];
            return self.apply("DepthToSpace", &[x], &[], &attributes, to);
        }
        let mut to = dims.clone();
        let mut scales = vec![1.0; rank];
        for axis in 0..rank {
            if self.u.ratio(if axis < 2 { 1 } else { 4 }, 8)? {
                (to[axis], scales[axis]) = (2 * dims[axis], 2.0);
            }
        }
        if to.iter().product::<usize>() > MOST_ELEMENTS || to[1] > 16 || self.opset < 9 {
            return self.elementwise(x, dims);
        }
        let scales = self.add_constant(&[rank], &scales, FLOAT);
        let mode = [("mode", Value::Text(self.u.choose(&["nearest", "linear"])?))];
        match self.opset {
            9 => self.apply("Upsample", &[x], &[&scales], &mode, to),
            _ => self.apply("Resize", &[x], &["", &scales], &mode, to),
        }
    }
}

/// The attributes of a window.
struct Window {
    strides: Vec<usize>,
    dilations: Vec<usize>,
    pads: Vec<usize>,
}

impl Window {
    fn extent(&self, axis: usize, kernel: &[usize]) -> usize {
        (kernel[axis] - 1) * self.dilations[axis] + 1
    }

    fn padding(&self, axis: usize) -> usize {
        self.pads[axis] + self.pads[axis + self.strides.len()]
    }
}
