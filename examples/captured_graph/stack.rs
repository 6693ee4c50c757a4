//! The norms of a transformer's decoding step, on buffers that stay where they are.

use std::sync::Arc;

use warpnorm::cudarc::driver::{CudaGraph, CudaSlice, CudaStream, sys};
use warpnorm::half::bf16;
use warpnorm::{Args, Cpu, Cuda, DType, Prepared, RmsNorm, Signature};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const EPS: f64 = 1e-6;

/// Norms one after another, of the same shape: before attention and before the MLP of each layer, and one at the end.
pub struct Stack {
    cuda: Cuda,
    shape: [usize; 2],
    prepared: Prepared<Cuda>,
    weights: Vec<CudaSlice<f32>>,
    x: CudaSlice<bf16>,
    /// The residual stream.
    hidden: CudaSlice<bf16>,
    y: CudaSlice<bf16>,
}

impl Stack {
    /// Everything that takes time or memory, before the capture. cudarc's event tracking is to be off already: slices that are
    /// made now have no events then.
    pub fn new(cuda: &Cuda, shape: [usize; 2], weights: &[Vec<f32>]) -> Result<Self> {
        let signature = Signature::new(shape, DType::Bf16).weight(DType::F32).sum_in_residual();
        let prepared = RmsNorm::new([shape[1]], EPS)?.prepare(cuda, &signature)?;
        let stream = cuda.stream();
        let weights = weights.iter().map(|weight| stream.clone_htod(weight)).collect::<std::result::Result<_, _>>()?;
        let [x, hidden, y] = [(); 3].map(|()| stream.alloc_zeros(shape[0] * shape[1]));
        Ok(Self { cuda: cuda.clone(), shape, prepared, weights, x: x?, hidden: hidden?, y: y? })
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        self.cuda.stream()
    }

    /// The kernels of one norm.
    pub fn kernels(&self) -> Vec<&'static str> {
        self.prepared.kernels().collect()
    }

    /// New contents in the same buffers.
    pub fn fill(&mut self, step: &Step) -> Result<()> {
        self.cuda.stream().memcpy_htod(&step.x, &mut self.x)?;
        Ok(self.cuda.stream().memcpy_htod(&step.hidden, &mut self.hidden)?)
    }

    /// Puts the whole step onto the stream: into the graph, if the stream is being captured.
    pub fn submit(&mut self) -> Result<()> {
        for (number, weight) in self.weights.iter().enumerate() {
            if number > 0 {
                // A service has attention or the MLP here. They read `y` and write `x`, and so does a copy.
                self.cuda.stream().memcpy_dtod(&self.y, &mut self.x)?;
            }
            // hidden += x, y = RMSNorm(hidden) * weight
            let args = Args::new(&self.cuda, self.shape).input(&self.x).sum_in_residual(&mut self.hidden);
            self.prepared.forward(args.weight(weight).output(&mut self.y))?;
        }
        Ok(())
    }

    /// The step as a graph. It holds the buffers' addresses and nothing that keeps them: they must outlive it.
    pub fn capture(&mut self) -> Result<CudaGraph> {
        let stream = self.stream().clone();
        // By this mode other threads may go on allocating and synchronizing meanwhile.
        stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let submitted = self.submit();
        // Also if that failed: else the stream would stay in capture for ever.
        let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0));
        submitted?;
        let graph = graph?.ok_or("nothing was captured")?;
        graph.upload()?;
        Ok(graph)
    }

    /// `y` and the residual stream, when all that was submitted is done.
    pub fn results(&self) -> Result<[Vec<bf16>; 2]> {
        Ok([self.stream().clone_dtoh(&self.y)?, self.stream().clone_dtoh(&self.hidden)?])
    }
}

/// What a step begins with.
pub struct Step {
    x: Vec<bf16>,
    hidden: Vec<bf16>,
}

impl Step {
    pub fn new(shape: [usize; 2], seed: u64) -> Self {
        let mut numbers = numbers(seed).map(bf16::from_f32);
        let mut tensor = || numbers.by_ref().take(shape[0] * shape[1]).collect();
        Self { x: tensor(), hidden: tensor() }
    }

    /// The same norms on the CPU.
    pub fn on_cpu(&self, shape: [usize; 2], weights: &[Vec<f32>]) -> Result<[Vec<bf16>; 2]> {
        let layer = RmsNorm::new([shape[1]], EPS)?;
        let (mut x, mut hidden, mut y) = (self.x.clone(), self.hidden.clone(), self.x.clone());
        for (number, weight) in weights.iter().enumerate() {
            if number > 0 {
                x.copy_from_slice(&y);
            }
            let args = Args::new(&Cpu, shape).input(&x).sum_in_residual(&mut hidden).weight(weight);
            layer.forward(args.output(&mut y))?;
        }
        Ok([y, hidden])
    }
}

/// Weights around 1.
pub fn weights(norms: usize, length: usize) -> Vec<Vec<f32>> {
    let weight = |norm| numbers(norm as u64).take(length).map(|v| 1.0 + 0.5 * v).collect();
    (0..norms).map(weight).collect()
}

/// Numbers between -1 and 1, the same in every run.
fn numbers(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    })
}
