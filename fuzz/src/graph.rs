//! Graphs made of random bytes.

mod steps;

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
    /// Whether a second fold must change nothing. A copied layer has other readers, and branches have one beginning when the
    /// map before one of them is gone.
    settles: bool,
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
        let is_settled = bytes == folded.bytes() || !self.settles;
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
        let settles = !options.merge_branches && !options.duplicate_shared;
        Ok(Case { bytes: self.builder.build(), options, promises, settles })
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
}
