//! Graphs made of random bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use warpnorm::DType;
use warpnorm::fold::onnx::{Forward, Model, Options, Plan, Whole};

use crate::writer::{BFLOAT16, Builder, FLOAT, FLOAT16, INT64, Value, tensor, value_info};

/// A model, and how to fold it.
#[derive(Debug)]
pub struct Case {
    pub bytes: Vec<u8>,
    pub options: Options,
    /// Whether its numbers are such that rounding explains little of what may differ, and all of it is valid.
    promises: Promises,
}

/// What must come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promises {
    /// The folded model computes the same.
    Results,
    /// Each stretch that was changed does. In f16 and bf16 errors add up to more than the whole may be off.
    Stretches,
    /// It is folded or refused.
    Nothing,
}

impl Case {
    /// Folds the model, twice, and compares.
    pub fn check(&self) {
        let model = match Model::from_bytes(&*self.bytes) {
            Ok(model) => model,
            Err(_) if self.promises == Promises::Nothing => return,
            Err(error) => panic!("a valid model: {error}"),
        };
        let plan = match Plan::new(&model, &self.options) {
            Ok(plan) => plan,
            Err(_) if self.promises == Promises::Nothing => return,
            Err(error) => panic!("a valid model: {error}"),
        };
        let bytes = plan.to_bytes().expect("enough memory");
        assert_eq!(bytes.len() as u64, plan.report().summary.file_after, "the length was known");
        let folded = Model::from_bytes(bytes).expect("what is written can be read");
        let verification = plan.verify(&folded, 1, None).expect("what is written can be read");
        let again = Plan::new(&folded, &self.options).expect("what is written can be read");
        if self.promises == Promises::Nothing {
            return;
        }
        let explained = || format!("{verification:#?}\n{:#?}\n{:?}", plan.report(), self.options);
        // Of a stretch alone the shapes are not always known; the whole is compared all the same.
        assert!(!verification.pairs.iter().any(|pair| pair.error.is_ok() && !pair.passed()), "{}", explained());
        let compared = matches!(verification.whole, Whole::Compared { .. });
        assert!(compared && (verification.whole.passed() || self.promises == Promises::Stretches), "{}", explained());
        let bytes = again.to_bytes().expect("enough memory");
        // A copied layer has other readers, and branches one beginning when the map before one of them is gone.
        let is_settled = bytes == folded.bytes() || self.options.duplicate_shared || self.options.merge_branches;
        assert!(is_settled, "a second fold changes the model: {:#?}\n{}", again.report(), explained());
    }
}

impl<'a> Arbitrary<'a> for Case {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Generator::new(u)?.case()
    }
}

/// A value that nodes may read.
#[derive(Debug, Clone)]
struct Live {
    name: String,
    dims: Vec<usize>,
    /// How many factors it may be a product of: too many leave nothing to compare.
    degree: usize,
    is_read: bool,
}

struct Generator<'u, 'a> {
    u: &'u mut Unstructured<'a>,
    builder: Builder,
    opset: i64,
    element: i64,
    /// Whether attributes and shapes may be anything.
    is_wild: bool,
    live: Vec<Live>,
    constants: Vec<(String, Vec<usize>)>,
    made: usize,
    seed: u64,
}

/// Products of more values than this are not made.
const HIGHEST_DEGREE: usize = 3;
/// The elements that a value may have.
const MOST_ELEMENTS: usize = 2048;
const OPSETS: [i64; 9] = [17, 13, 11, 9, 8, 7, 6, 18, 21];

impl<'u, 'a> Generator<'u, 'a> {
    fn new(u: &'u mut Unstructured<'a>) -> Result<Self> {
        let opset = *u.choose(&OPSETS)?;
        let element = if u.ratio(1, 8)? { *u.choose(&[FLOAT16, BFLOAT16])? } else { FLOAT };
        let is_wild = u.ratio(1, 4)?;
        let mut builder = Builder::default().opset(opset).element(element);
        if opset == 8 {
            // Before version 4 every initializer had to be an input; these are not, and need not be for a reader.
            builder.ir_version = 3;
        }
        let (live, constants) = (Vec::new(), Vec::new());
        Ok(Self { u, builder, opset, element, is_wild, live, constants, made: 0, seed: 1 })
    }

    fn case(mut self) -> Result<Case> {
        for _ in 0..self.up_to(1, 2)? {
            self.input()?;
        }
        for _ in 0..self.up_to(1, 10)? {
            self.step()?;
        }
        self.outputs()?;
        let forward = *self.u.choose(&[Forward::Exact, Forward::Scale, Forward::Off])?;
        let mut options = Options { forward, ..Options::default() };
        for option in [&mut options.merge_branches, &mut options.duplicate_shared, &mut options.freeze_inputs] {
            *option = self.u.arbitrary()?;
        }
        if self.u.ratio(1, 16)? {
            options.skip.push("*3".to_owned());
        }
        options.tidy = self.u.ratio(1, 4)?;
        if self.u.ratio(1, 4)? {
            let dtype = *self.u.choose(&[DType::F16, DType::Bf16, DType::F32])?;
            options.dtype = (dtype != DType::Bf16 || self.opset >= 13).then_some(dtype);
        }
        let is_coarse = self.element != FLOAT || matches!(options.dtype, Some(DType::F16 | DType::Bf16));
        let promises = match (self.is_wild, is_coarse) {
            (true, _) => Promises::Nothing,
            (false, false) => Promises::Results,
            (false, true) => Promises::Stretches,
        };
        Ok(Case { bytes: self.builder.build(), options, promises })
    }

    fn input(&mut self) -> Result<()> {
        let rank = *self.u.choose(&[4, 4, 4, 3, 2, 5])?;
        let mut dims = vec![self.up_to(1, 2)?, self.up_to(1, 6)?];
        for _ in 2..rank {
            dims.push(self.up_to(1, 6)?);
        }
        let mut stated = dims.clone();
        if self.u.ratio(1, 4)? {
            // Left open, it is one sample.
            (stated[0], dims[0]) = (0, 1);
        }
        if self.is_wild && self.u.ratio(1, 4)? {
            let axis = self.u.choose_index(rank)?;
            stated[axis] = self.wild()? as usize;
        }
        let name = self.name();
        self.edit(|builder| builder.input(&name, &stated));
        self.live.push(Live { name, dims, degree: 1, is_read: false });
        Ok(())
    }

    /// What nobody reads is an output, and some of what is read.
    fn outputs(&mut self) -> Result<()> {
        for live in std::mem::take(&mut self.live) {
            if !live.is_read || self.u.ratio(1, 8)? {
                let info = value_info(&live.name, self.element, &live.dims);
                self.builder.graph_extra = std::mem::take(&mut self.builder.graph_extra).message(12, &info);
            }
        }
        Ok(())
    }

    fn edit(&mut self, edit: impl FnOnce(Builder) -> Builder) {
        self.builder = edit(std::mem::take(&mut self.builder));
    }

    fn name(&mut self) -> String {
        self.made += 1;
        format!("v{}", self.made)
    }

    fn up_to(&mut self, least: usize, most: usize) -> Result<usize> {
        self.u.int_in_range(least..=most)
    }

    fn wild(&mut self) -> Result<i64> {
        const EDGES: [i64; 12] =
            [0, -1, 1, 2, i64::MAX, i64::MIN, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 20, -2, 1 << 62];
        if self.u.ratio(1, 2)? { Ok(*self.u.choose(&EDGES)?) } else { self.u.arbitrary() }
    }

    /// A number for an attribute.
    fn int(&mut self, wish: usize) -> Result<i64> {
        if self.is_wild && self.u.ratio(1, 8)? { self.wild() } else { Ok(wish as i64) }
    }

    fn ints(&mut self, wishes: &[usize]) -> Result<Vec<i64>> {
        let mut ints = wishes.iter().map(|&wish| self.int(wish)).collect::<Result<Vec<_>>>()?;
        if self.is_wild && self.u.ratio(1, 16)? {
            let len = self.up_to(0, 6)?;
            ints.resize(len, 1);
        }
        Ok(ints)
    }

    /// The shape that a constant is said to have.
    fn shape(&mut self, wish: &[usize]) -> Result<Vec<usize>> {
        let mut dims = wish.to_vec();
        if self.is_wild && self.u.ratio(1, 16)? {
            match (self.u.choose_index(3)?, dims.len()) {
                (0, _) => dims.push(self.up_to(0, 3)?),
                (1, _) => drop(dims.pop()),
                (_, 0) => {}
                (_, rank) => dims[self.u.choose_index(rank)?] = self.up_to(0, 9)?,
            }
        }
        Ok(dims)
    }

    fn numbers(&mut self, len: usize) -> Result<Vec<f64>> {
        let style = self.up_to(0, 9)?;
        let numbers = (0..len).map(|index| {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = 2.0 * ((self.seed >> 11) as f64 / (1_u64 << 53) as f64) - 1.0;
            let value = value + 0.1_f64.copysign(value);
            match style {
                7 => value.abs(),
                8 if index % 3 == 0 => 0.0,
                9 => 1.0,
                _ => value,
            }
        });
        Ok(numbers.collect())
    }

    fn add_constant(&mut self, dims: &[usize], numbers: &[f64], element: i64) -> String {
        let name = self.name();
        let tensor = tensor(&name, element, dims, numbers);
        self.edit(|builder| builder.initializer(tensor));
        name
    }

    /// A constant of floating-point numbers: a new one, or another node's, or one that a node makes.
    fn constant(&mut self, wish: &[usize]) -> Result<String> {
        let known = self.constants.iter().find(|(_, dims)| dims == wish);
        if let Some((name, _)) = known.cloned()
            && self.u.ratio(1, 6)?
        {
            return Ok(name);
        }
        let dims = self.shape(wish)?;
        let numbers = self.numbers(dims.iter().product())?;
        let mut name = self.add_constant(&dims, &numbers, self.element);
        match self.up_to(0, 15)? {
            0 => name = self.add_node("Identity", &[&name], &[]),
            1 => {
                let element = self.element;
                let tensor = tensor("", element, &dims, &numbers);
                name = self.add_node("Constant", &[], &[("value", Value::Tensor(tensor))]);
            }
            2 if !dims.is_empty() => {
                let stated = self.ints(&dims)?;
                let stated: Vec<_> = stated.into_iter().map(|dim| dim as f64).collect();
                let shape = self.add_constant(&[stated.len()], &stated, INT64);
                name = match self.is_wild {
                    true => self.add_node("ConstantOfShape", &[&shape], &[]),
                    false => self.add_node("Reshape", &[&name, &shape], &[]),
                };
            }
            3 => {
                // Whoever runs the model may replace it.
                self.edit(|builder| builder.input(&name, &dims));
            }
            _ => {}
        }
        self.constants.push((name.clone(), wish.to_vec()));
        Ok(name)
    }

    /// A node; returns the name of its output.
    fn add_node(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Value<'_>)]) -> String {
        let name = self.name();
        self.edit(|builder| builder.node(op, inputs, &name, attributes));
        name
    }

    /// A node of values that are alive, and constants behind them.
    fn apply(
        &mut self,
        op: &str,
        data: &[usize],
        constants: &[&str],
        attributes: &[(&str, Value<'_>)],
        dims: Vec<usize>,
    ) -> Result<()> {
        let names: Vec<_> = data.iter().map(|&index| self.live[index].name.clone()).collect();
        let inputs: Vec<_> = names.iter().map(String::as_str).chain(constants.iter().copied()).collect();
        self.note(op, &inputs, data, attributes, dims)
    }

    fn note(
        &mut self,
        op: &str,
        inputs: &[&str],
        data: &[usize],
        attributes: &[(&str, Value<'_>)],
        dims: Vec<usize>,
    ) -> Result<()> {
        let degrees = data.iter().map(|&index| self.live[index].degree);
        let degree = if op == "Mul" { degrees.sum() } else { degrees.max().unwrap_or(1) };
        data.iter().for_each(|&index| self.live[index].is_read = true);
        let name = self.add_node(op, inputs, attributes);
        if self.u.ratio(1, 8)? {
            let info = value_info(&name, self.element, &dims);
            self.builder.graph_extra = std::mem::take(&mut self.builder.graph_extra).message(13, &info);
        }
        self.live.push(Live { name, dims, degree, is_read: false });
        Ok(())
    }

    /// A value: mostly the latest, for chains are what is folded.
    fn pick(&mut self) -> Result<usize> {
        let last = self.live.len() - 1;
        if self.u.ratio(2, 3)? { Ok(last) } else { self.u.choose_index(self.live.len()) }
    }

    fn step(&mut self) -> Result<()> {
        let x = self.pick()?;
        let dims = self.live[x].dims.clone();
        match self.up_to(0, 19)? {
            0..=2 if dims.len() >= 3 => self.convolution(x, &dims),
            3 if dims.len() >= 3 => self.transposed_convolution(x, &dims),
            4..=6 => self.batch_norm(x, &dims),
            7 | 8 => self.arithmetic(x, &dims),
            9 => self.elementwise(x, dims),
            10 | 11 => self.of_two(x, dims),
            12 => self.concat(x, dims),
            13 if dims.len() >= 3 => self.pool(x, &dims),
            14 => self.reshape(x, &dims),
            15 => self.transpose(x, &dims),
            16 | 17 => self.product(x, &dims),
            18 => self.mean(x, dims),
            19 => self.resize(x, dims),
            _ => self.product(x, &dims),
        }
    }

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

    fn convolution(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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

    fn transposed_convolution(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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

    fn batch_norm(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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
    fn arithmetic(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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

    fn elementwise(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
        let op = *self.u.choose(&["Relu", "Identity", "Dropout", "LeakyRelu", "Sigmoid", "Identity"])?;
        let is_test = [("is_test", Value::Int(1))];
        let attributes = if self.opset < 7 && op == "Dropout" { &is_test[..] } else { &[] };
        self.apply(op, &[x], &[], attributes, dims)
    }

    /// Two values of one shape, or of shapes that are broadcast.
    fn of_two(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
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

    fn concat(&mut self, x: usize, mut dims: Vec<usize>) -> Result<()> {
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

    fn pool(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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

    fn reshape(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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

    fn transpose(&mut self, x: usize, dims: &[usize]) -> Result<()> {
        let mut perm: Vec<_> = (0..dims.len()).collect();
        for last in (1..perm.len()).rev() {
            let other = self.up_to(0, last)?;
            perm.swap(last, other);
        }
        let to = perm.iter().map(|&axis| dims[axis]).collect();
        let perm = self.ints(&perm)?;
        self.apply("Transpose", &[x], &[], &[("perm", Value::Ints(&perm))], to)
    }

    fn product(&mut self, x: usize, dims: &[usize]) -> Result<()> {
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

    fn mean(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
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

    fn resize(&mut self, x: usize, dims: Vec<usize>) -> Result<()> {
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
