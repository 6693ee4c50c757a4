//! candle's layers over sets of tensors, as a model calls them: each call allocates its output, which lives until the next
//! call on the same set.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;
use std::slice;

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use candle_nn::{BatchNorm, GroupNorm, LayerNorm, Module, ModuleT, RmsNorm};

type Forward = Box<dyn Fn(&Tensor) -> Result<Tensor>>;

/// A layer, tensors for it, and what its last calls have left.
pub struct Cell {
    layer: Forward,
    shape: Vec<usize>,
    dtype: DType,
    silu: bool,
    sets: Vec<Set>,
}

struct Set {
    x: Tensor,
    residual: Option<Tensor>,
    /// The output, and the sum where a residual is added.
    outputs: Vec<Tensor>,
}

/// A layer as C describes it. Coefficients are of f32, an element each channel; null for what the layer has not.
#[repr(C)]
pub struct Description {
    /// As in the record: `layer_norm`, `batch_norm_inference`.
    op: *const c_char,
    /// `f32`, `f16` or `bf16`.
    dtype: *const c_char,
    rank: usize,
    extents: *const usize,
    groups: usize,
    eps: f64,
    /// 1 for SiLU behind the layer, 0 for nothing.
    silu: i32,
    weight: *const f32,
    bias: *const f32,
    running_mean: *const f32,
    running_var: *const f32,
}

impl Cell {
    /// # Safety
    ///
    /// Texts end in a zero, and pointers have the extents that the description says.
    unsafe fn new(description: &Description) -> Result<Self> {
        // SAFETY: the caller's promise.
        let (op, dtype, shape) = unsafe {
            (
                CStr::from_ptr(description.op).to_string_lossy(),
                CStr::from_ptr(description.dtype).to_string_lossy().parse::<DType>(),
                slice::from_raw_parts(description.extents, description.rank).to_vec(),
            )
        };
        let (dtype, channels, eps) = (dtype.map_err(candle_core::Error::wrap)?, shape[1], description.eps);
        let vector = |values: *const f32, dtype: DType| -> Result<Tensor> {
            if values.is_null() {
                bail!("{op} lacks a vector");
            }
            // SAFETY: the caller's promise: an element each channel.
            let values = unsafe { slice::from_raw_parts(values, channels) };
            Tensor::from_slice(values, channels, &Device::Cpu)?.to_dtype(dtype)
        };
        let weight = vector(description.weight, dtype)?;
        let bias = || vector(description.bias, dtype);
        let layer: Forward = match op.as_ref() {
            "layer_norm" => {
                let norm = LayerNorm::new(weight, bias()?, eps);
                Box::new(move |x| norm.forward(x))
            }
            "rms_norm" | "add_rms_norm" => {
                let norm = RmsNorm::new(weight, eps);
                Box::new(move |x| norm.forward(x))
            }
            "group_norm" => {
                let norm = GroupNorm::new(weight, bias()?, channels, description.groups, eps)?;
                Box::new(move |x| norm.forward(x))
            }
            "batch_norm_inference" | "batch_norm_training" => {
                let trains = op == "batch_norm_training";
                // It moves them in f32, but by them it normalizes in the type of its input.
                let of_statistics = if trains { DType::F32 } else { dtype };
                let mean = vector(description.running_mean, of_statistics)?;
                let var = vector(description.running_var, of_statistics)?;
                let norm = BatchNorm::new(channels, mean, var, weight, bias()?, eps)?;
                Box::new(move |x| norm.forward_t(x, trains))
            }
            other => bail!("candle has no {other}"),
        };
        Ok(Self { layer, shape, dtype, silu: description.silu != 0, sets: Vec::new() })
    }

    /// # Safety
    ///
    /// `x`, and `residual` where it is not null, are whole tensors.
    unsafe fn add_set(&mut self, x: *const u8, residual: *const u8) -> Result<()> {
        let bytes = self.shape.iter().product::<usize>() * self.dtype.size_in_bytes();
        let tensor = |values: *const u8| {
            // SAFETY: the caller's promise.
            let values = unsafe { slice::from_raw_parts(values, bytes) };
            Tensor::from_raw_buffer(values, self.dtype, &self.shape, &Device::Cpu)
        };
        let residual = if residual.is_null() { None } else { Some(tensor(residual)?) };
        let set = Set { x: tensor(x)?, residual, outputs: Vec::with_capacity(2) };
        self.sets.push(set);
        Ok(())
    }

    fn call(&mut self, set: usize) -> Result<()> {
        let Set { x, residual, outputs } = &mut self.sets[set];
        outputs.clear();
        let sum = residual.as_ref().map(|residual| &*x + residual).transpose()?;
        let y = (self.layer)(sum.as_ref().unwrap_or(x))?;
        outputs.push(if self.silu { y.silu()? } else { y });
        outputs.extend(sum);
        Ok(())
    }

    /// # Safety
    ///
    /// `target` has room for a whole tensor.
    unsafe fn output(&self, set: usize, which: usize, target: *mut c_void) -> Result<()> {
        let tensor = self.sets[set].outputs[which].flatten_all()?;
        // SAFETY: the caller's promise, and a tensor of this cell has the cell's elements.
        unsafe {
            match self.dtype {
                DType::F32 => write::<f32>(&tensor, target),
                DType::F16 => write::<half::f16>(&tensor, target),
                DType::BF16 => write::<half::bf16>(&tensor, target),
                other => bail!("no cell is of {other:?}"),
            }
        }
    }
}

/// # Safety
///
/// `target` has room for all elements.
unsafe fn write<T: WithDType>(tensor: &Tensor, target: *mut c_void) -> Result<()> {
    let values = tensor.to_vec1::<T>()?;
    // SAFETY: the caller's promise; bytes, since the target need not be aligned.
    unsafe { ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), target.cast::<u8>(), size_of_val(&*values)) };
    Ok(())
}

fn text(result: Result<()>) -> *const c_char {
    match result {
        Ok(()) => ptr::null(),
        // Below it there may be a backtrace.
        Err(error) => {
            let line = error.to_string().lines().next().unwrap_or_default().replace('\0', " ");
            CString::new(line).expect("no zero in it").into_raw()
        }
    }
}

/// Makes a cell without tensors.
///
/// # Safety
///
/// See [`Description`]; `cell` may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_new(description: &Description, cell: *mut *mut Cell) -> *const c_char {
    // SAFETY: the caller's promise.
    text(unsafe { Cell::new(description).map(|made| *cell = Box::into_raw(Box::new(made))) })
}

/// Adds a set of copies of these tensors, `residual` null where the layer adds none.
///
/// # Safety
///
/// The cell is one of [`candle_new`]'s, and the tensors are of its shape and type.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_add_set(cell: &mut Cell, x: *const u8, residual: *const u8) -> *const c_char {
    // SAFETY: the caller's promise.
    text(unsafe { cell.add_set(x, residual) })
}

/// Calls the layer on a set.
#[unsafe(no_mangle)]
pub extern "C" fn candle_call(cell: &mut Cell, set: usize) -> *const c_char {
    text(cell.call(set))
}

/// Copies what the last call on a set has left: 0 the output, 1 the sum.
///
/// # Safety
///
/// `target` has room for a whole tensor.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_output(cell: &Cell, set: usize, which: usize, target: *mut c_void) -> *const c_char {
    // SAFETY: the caller's promise.
    text(unsafe { cell.output(set, which, target) })
}

/// Frees a cell and its tensors.
///
/// # Safety
///
/// The cell is one of [`candle_new`]'s, and nobody uses it any longer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn candle_free(cell: *mut Cell) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(cell) });
}
