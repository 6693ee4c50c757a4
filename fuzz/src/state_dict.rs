//! State dicts made of random bytes.

use arbitrary::{Arbitrary, Result, Unstructured};
use half::{bf16, f16};
use warpnorm::{
    DType,
    fold::{
        Padding, Side,
        checkpoint::{Checkpoint, Kind, Options, Pair, Plan},
    },
};

/// A state dict, and how to fold it.
#[derive(Debug)]
pub struct StateDict {
    pub bytes: Vec<u8>,
    pub options: Options,
    /// Whether its numbers are such that a fold which was not refused must be right.
    is_tame: bool,
}

impl StateDict {
    /// Folds it and compares.
    pub fn check(&self) {
        let checkpoint = Checkpoint::from_bytes(&*self.bytes).expect("a valid state dict");
        let plan = Plan::new(&checkpoint, &self.options);
        let bytes = plan.to_bytes().expect("enough memory");
        assert_eq!(bytes.len() as u64, plan.report().summary.file_after, "the length was known");
        let folded = Checkpoint::from_bytes(bytes).expect("what is written can be read");
        let verification = plan.verify(&folded);
        let is_right = |error: &f64| !self.is_tame || *error <= 1.0;
        let are_right = verification.pairs.iter().all(|pair| pair.error.as_ref().is_ok_and(is_right));
        assert!(are_right, "{verification:#?}\n{:#?}\n{:?}", plan.report(), self.options);
    }
}

/// Modules as they are called in networks, some of which make pairs.
const MODULES: [&str; 12] =
    ["conv", "bn", "a.conv1", "a.bn1", "a.conv2", "a.bn2", "a.0", "a.1", "b.conv_pw", "b.bn1", "b.conv_dw", "a.norm1"];
const DTYPES: [&str; 3] = ["F32", "F16", "BF16"];

impl<'a> Arbitrary<'a> for StateDict {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let mut made = Tensors { is_tame: u.arbitrary()?, ..Tensors::default() };
        let channels: usize = u.int_in_range(1..=6)?;
        for module in MODULES {
            if !u.arbitrary::<bool>()? {
                continue;
            }
            let is_norm = module.contains('n') && !module.contains("conv") || module == "a.1";
            if is_norm {
                for part in ["weight", "bias", "running_mean", "running_var"] {
                    if part.starts_with("running") || u.arbitrary()? {
                        made.add(u, &format!("{module}.{part}"), &[channels], part == "running_var")?;
                    }
                }
            } else {
                let mut shape = vec![channels, u.int_in_range(1..=6)?];
                for _ in 0..*u.choose(&[2, 2, 0, 1, 3])? {
                    shape.push(u.int_in_range(1..=3)?);
                }
                made.add(u, &format!("{module}.weight"), &shape, false)?;
                if u.arbitrary()? {
                    made.add(u, &format!("{module}.bias"), &[channels], false)?;
                }
            }
        }
        let mut options = Options { eps: vec![("*".to_owned(), *u.choose(&[1e-5, 1e-3, 0.0])?)], ..Options::default() };
        if u.ratio(1, 2)? {
            let pairs = (0..u.int_in_range(1..=3)?).map(|_| pair(u)).collect::<Result<_>>()?;
            options.pairs = Some(pairs);
        }
        if u.ratio(1, 4)? {
            options.dtype = Some(*u.choose(&[DType::F32, DType::F16, DType::Bf16])?);
        }
        let is_tame = made.is_tame;
        Ok(Self { bytes: made.file(), options, is_tame })
    }
}

fn pair(u: &mut Unstructured<'_>) -> Result<Pair> {
    let mut pair = Pair::new(*u.choose(&MODULES)?, *u.choose(&MODULES)?);
    pair.kind = *u.choose(&[None, Some(Kind::Conv), Some(Kind::ConvTranspose), Some(Kind::Linear)])?;
    pair.groups = *u.choose(&[None, Some(1), Some(2), Some(3), Some(0), Some(usize::MAX)])?;
    pair.side = *u.choose(&[Side::After, Side::Before])?;
    pair.padding = *u.choose(&[Padding::None, Padding::Zeros])?;
    if u.ratio(1, 4)? {
        pair.eps = Some(*u.choose(&[1e-3, 0.0, -1.0, f64::NAN, 1e300])?);
    }
    Ok(pair)
}

/// The tensors of a file in the making.
#[derive(Default)]
struct Tensors {
    header: Vec<String>,
    data: Vec<u8>,
    is_tame: bool,
}

impl Tensors {
    fn add(&mut self, u: &mut Unstructured<'_>, name: &str, shape: &[usize], is_positive: bool) -> Result<()> {
        let dtype = *u.choose(&DTYPES)?;
        let mut shape = shape.to_vec();
        if u.ratio(1, 16)? {
            let axis = u.choose_index(shape.len())?;
            shape[axis] = u.int_in_range(0..=7)?;
        }
        let start = self.data.len();
        for _ in 0..shape.iter().product() {
            let value = f32::from(u.arbitrary::<i8>()?) / 100.0;
            let value = if is_positive { value.abs() + 0.1 } else { value };
            let bits: u32 = if self.is_tame { value.to_bits() } else { u.arbitrary()? };
            match dtype {
                "F32" => self.data.extend(bits.to_le_bytes()),
                "F16" => self.data.extend(f16::from_f32(f32::from_bits(bits)).to_le_bytes()),
                _ => self.data.extend(bf16::from_f32(f32::from_bits(bits)).to_le_bytes()),
            }
        }
        let end = self.data.len();
        self.header.push(format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        Ok(())
    }

    fn file(self) -> Vec<u8> {
        let header = format!("{{{}}}", self.header.join(","));
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &self.data].concat()
    }
}
