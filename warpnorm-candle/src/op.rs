//! The custom op under every module: one call of warpnorm on candle's storage.

use std::sync::{Arc, Mutex, PoisonError};

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendDevice as _;
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Error, Layout, Result, Shape, StorageRef, Tensor,
};
use warpnorm::{Signature, raw};

use crate::error::refused;
use crate::layer::Layer;
use crate::memory::{Memory, Operands, Place, Queue as _, unsupported};

/// Weight and bias, as candle's layers have them.
#[derive(Clone, Copy)]
pub(crate) enum Affine<'a> {
    None,
    Weight(&'a Tensor),
    WeightAndBias(&'a Tensor, &'a Tensor),
}

/// The running statistics of a batch normalization: `[C]` in f32.
pub(crate) struct Running {
    pub mean: Tensor,
    pub var: Tensor,
}

/// `layer(x)`.
pub(crate) fn norm(layer: Layer, x: &Tensor, affine: Affine) -> Result<Tensor> {
    Norm { layer, residual: None, statistics: Statistics::OfInput }.apply(x, affine)
}

/// `layer(x + residual)`, and `x + residual`, in one pass over memory.
pub(crate) fn norm_of_sum(layer: Layer, x: &Tensor, residual: &Tensor, affine: Affine) -> Result<(Tensor, Tensor)> {
    let op = layer.name();
    if x.shape() != residual.shape() {
        let (lhs, rhs) = (x.shape().clone(), residual.shape().clone());
        return Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op }.bt());
    }
    if x.dtype() != residual.dtype() {
        return Err(Error::DTypeMismatchBinaryOp { lhs: x.dtype(), rhs: residual.dtype(), op }.bt());
    }
    // What depends on a variable must be an argument of the op (see `Norm`), and to the sum it is all one.
    let (x, residual) = if residual.track_op() { (residual, x) } else { (x, residual) };
    let residual = Some(layer.readable(residual)?);
    let both = Norm { layer, residual, statistics: Statistics::OfInput }.apply(x, affine)?;
    Ok((both.get(0)?, both.get(1)?))
}

/// A batch normalization by running statistics.
pub(crate) fn norm_by_running(layer: Layer, x: &Tensor, running: Running, affine: Affine) -> Result<Tensor> {
    Norm { layer, residual: None, statistics: Statistics::Running(running) }.apply(x, affine)
}

/// A batch normalization by the batch's statistics, and the running ones after it.
pub(crate) fn norm_by_batch(layer: Layer, x: &Tensor, running: Running, affine: Affine) -> Result<(Tensor, Running)> {
    let moved = Arc::default();
    let statistics = Statistics::OfBatch { running, moved: Arc::clone(&moved) };
    let y = Norm { layer, residual: None, statistics }.apply(x, affine)?;
    let moved = moved.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((y, moved.ok_or(Error::UnwrapNone)?))
}

/// By what an input is normalized.
enum Statistics {
    OfInput,
    Running(Running),
    /// The running ones stay as they are: what they become is left in `moved`.
    OfBatch {
        running: Running,
        moved: Arc<Mutex<Option<Running>>>,
    },
}

impl Statistics {
    const fn running(&self) -> Option<&Running> {
        match self {
            Self::OfInput => None,
            Self::Running(running) | Self::OfBatch { running, .. } => Some(running),
        }
    }
}

/// A call, but for input, weight and bias. Those are the op's arguments, by which candle knows whether the result depends
/// on a variable; to go back through it is then an error.
struct Norm {
    layer: Layer,
    residual: Option<Tensor>,
    statistics: Statistics,
}

impl Norm {
    fn apply(self, x: &Tensor, affine: Affine) -> Result<Tensor> {
        let (x, op) = (self.layer.readable(x)?, self.layer.name());
        let expected = self.layer.coefficients(x.dims());
        let checked = |tensor: &Tensor| match tensor.dims() {
            [found] if Some(*found) == expected => tensor.contiguous(),
            _ => {
                let (lhs, rhs) = (x.shape().clone(), tensor.shape().clone());
                Err(Error::ShapeMismatchBinaryOp { lhs, rhs, op }.bt())
            }
        };
        match affine {
            Affine::None => x.apply_op1(self),
            Affine::Weight(weight) => x.apply_op2(&checked(weight)?, self),
            Affine::WeightAndBias(weight, bias) => x.apply_op3(&checked(weight)?, &checked(bias)?, self),
        }
    }

    /// What the call looks like. `affine` is weight and bias, as far as they are there.
    fn signature<S: Memory>(&self, (x, layout): Place<S>, affine: &[Place<S>]) -> Result<Signature> {
        let mut signature = Signature::new(self.layer.shape(layout.dims())?, element_type(x)?);
        if let [(weight, _), ..] = affine {
            signature = signature.weight(element_type(*weight)?);
        }
        if let [_, (bias, _)] = affine {
            signature = signature.bias(element_type(*bias)?);
        }
        if let Some(stride) = self.layer.row_stride(layout) {
            signature = signature.input_row_stride(stride);
        }
        if let Some(residual) = &self.residual {
            signature = signature.residual().sum();
            if let Some(stride) = self.layer.row_stride(residual.layout()) {
                signature = signature.residual_row_stride(stride);
            }
        }
        if let Statistics::OfBatch { .. } = self.statistics {
            signature = signature.update_running_statistics();
        }
        Ok(signature)
    }

    /// The output, and behind it the sum if there is a residual: `[2, …]`.
    fn forward<S: Memory>(&self, x: Place<S>, affine: &[Place<S>]) -> Result<(S, Shape)> {
        let (beside, layout) = x;
        let queue = beside.queue()?;
        let call = self.layer.prepare(queue.device(), &self.signature(x, affine)?).map_err(refused)?;

        let outputs = if self.residual.is_some() { 2 } else { 1 };
        let mut output = allocate(beside, outputs * layout.shape().elem_count(), beside.dtype())?;
        let mut moved = match &self.statistics {
            Statistics::OfBatch { running, .. } => {
                Some((copied(&running.mean, beside)?, copied(&running.var, beside)?))
            }
            _ => None,
        };
        self.launch(&call, &queue, x, affine, &mut output, moved.as_mut())?;

        if let (Statistics::OfBatch { running, moved: left }, Some((mean, var))) = (&self.statistics, moved) {
            let tensor = |storage: S, like: &Tensor| {
                Tensor::from_storage(storage.into_storage(), like.shape(), BackpropOp::none(), false)
            };
            let moved = Running { mean: tensor(mean, &running.mean), var: tensor(var, &running.var) };
            *left.lock().unwrap_or_else(PoisonError::into_inner) = Some(moved);
        }
        let shape = if outputs == 1 { layout.shape().clone() } else { [&[outputs], layout.dims()].concat().into() };
        Ok((output, shape))
    }

    fn launch<S: Memory>(
        &self,
        call: &raw::Call,
        queue: &S::Queue,
        x: Place<S>,
        affine: &[Place<S>],
        output: &mut S,
        moved: Option<&mut (S, S)>,
    ) -> Result<()> {
        let (beside, layout) = x;
        let mut workspace = match call.workspace_bytes() {
            0 => None,
            bytes => Some(beside.device().zeros_impl(&Shape::from(bytes), DType::U8)?),
        };
        let residual = self.residual.as_ref().map(Tensor::storage_and_layout);
        let running =
            self.statistics.running().map(|Running { mean, var }| [mean, var].map(Tensor::storage_and_layout));

        let mut operands = Operands::new(queue);
        let mut addresses = raw::Addresses { input: operands.read(x)?, ..Default::default() };
        addresses.output = operands.write(output)?;
        if let [weight, ..] = affine {
            addresses.weight = operands.read(*weight)?;
        }
        if let [_, bias] = affine {
            addresses.bias = operands.read(*bias)?;
        }
        if let Some(residual) = &residual {
            addresses.residual = operands.read(place(residual, beside)?)?;
            addresses.sum = addresses.output + (layout.shape().elem_count() * beside.dtype().size_in_bytes()) as u64;
        }
        if let Some((mean, var)) = moved {
            (addresses.running_mean, addresses.running_var) = (operands.write(mean)?, operands.write(var)?);
        } else if let Some([mean, var]) = &running {
            addresses.running_mean = operands.read(place(mean, beside)?)?;
            addresses.running_var = operands.read(place(var, beside)?)?;
        }
        if let Some(workspace) = &mut workspace {
            (addresses.workspace, addresses.workspace_bytes) = (operands.write(workspace)?, call.workspace_bytes());
        }
        // SAFETY: every tensor has the elements that the signature says, and is of the queue's device. What is read is
        // locked; what is written was made for this call. On CUDA the operands order the launch behind other streams, and
        // memory is freed in the order of its stream.
        unsafe { call.launch(&addresses, queue.stream()) }.map_err(refused)
    }
}

fn element_type<S: Memory>(storage: &S) -> Result<warpnorm::DType> {
    match storage.dtype() {
        DType::F32 => Ok(warpnorm::DType::F32),
        DType::F16 => Ok(warpnorm::DType::F16),
        DType::BF16 => Ok(warpnorm::DType::Bf16),
        other => Err(unsupported(other)),
    }
}

/// Storage that a call will write all of.
fn allocate<S: Memory>(beside: &S, elements: usize, dtype: DType) -> Result<S> {
    // CUDA has no allocation of nothing.
    let shape = Shape::from(elements.max(1));
    // SAFETY: numbers, of which every pattern of bits is one, and which nobody reads before the call has written them.
    unsafe { beside.device().alloc_uninit(&shape, dtype) }
}

/// A tensor that is no argument of the op, on the same device.
fn place<'a, S: Memory>((storage, layout): &'a (StorageRef<'_>, &'a Layout), beside: &S) -> Result<Place<'a, S>> {
    let location = beside.device().location();
    match S::of(storage).filter(|found| found.device().location() == location) {
        Some(found) => Ok((found, layout)),
        None => {
            let rhs = storage.device().location();
            Err(Error::DeviceMismatchBinaryOp { lhs: location, rhs, op: "warpnorm" }.bt())
        }
    }
}

fn copied<S: Memory>(tensor: &Tensor, beside: &S) -> Result<S> {
    let locked = tensor.storage_and_layout();
    let (storage, layout) = place(&locked, beside)?;
    let mut copy = allocate(storage, layout.shape().elem_count(), storage.dtype())?;
    storage.copy_strided_src(&mut copy, 0, layout)?;
    Ok(copy)
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        self.layer.name()
    }

    fn cpu_fwd(&self, x: &CpuStorage, of_x: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((x, of_x), &[])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, of_x: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward((x, of_x), &[])
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        self.layer.name()
    }

    fn cpu_fwd(&self, x: &CpuStorage, of_x: &Layout, w: &CpuStorage, of_w: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward((x, of_x), &[(w, of_w)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, of_x: &Layout, w: &CudaStorage, of_w: &Layout) -> Result<(CudaStorage, Shape)> {
        self.forward((x, of_x), &[(w, of_w)])
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        self.layer.name()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        of_x: &Layout,
        weight: &CpuStorage,
        of_weight: &Layout,
        bias: &CpuStorage,
        of_bias: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward((x, of_x), &[(weight, of_weight), (bias, of_bias)])
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        of_x: &Layout,
        weight: &CudaStorage,
        of_weight: &Layout,
        bias: &CudaStorage,
        of_bias: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.forward((x, of_x), &[(weight, of_weight), (bias, of_bias)])
    }
}
