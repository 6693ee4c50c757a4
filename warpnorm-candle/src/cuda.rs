//! candle's CUDA storage, on candle's own stream.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backend::BackendStorage as _;
use candle_core::cuda::{CudaStorageSlice, cudarc};
use candle_core::{CudaStorage, Result, Storage};
use cudarc::driver::{CudaStream, DevicePtr as _, DevicePtrMut as _, SyncOnDrop};
use warpnorm::{Cuda, raw};

use crate::error::refused;
use crate::memory::{Memory, Queue, unsupported};

/// The stream of a candle device, and warpnorm's kernels in its context.
pub(crate) struct Stream {
    stream: Arc<CudaStream>,
    device: raw::Device,
}

impl Queue for Stream {
    fn device(&self) -> &raw::Device {
        &self.device
    }

    fn stream(&self) -> raw::Stream {
        self.stream.cu_stream().cast()
    }
}

/// The kernels in a stream's context: loaded at the first call in it, and kept as long as the process lives. All of
/// candle's devices of one GPU share a context.
fn kernels(stream: &Arc<CudaStream>) -> Result<raw::Device> {
    static LOADED: Mutex<Vec<(usize, raw::Device)>> = Mutex::new(Vec::new());
    let context = stream.context().cu_ctx().addr();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = loaded.iter().find(|(of, _)| *of == context) {
        return Ok(device.clone());
    }
    let device = raw::Device::from(&Cuda::on(stream).map_err(refused)?);
    loaded.push((context, device.clone()));
    Ok(device)
}

impl Memory for CudaStorage {
    type Queue = Stream;
    /// By it cudarc orders streams.
    type Guard<'a> = SyncOnDrop<'a>;

    fn of(storage: &Storage) -> Option<&Self> {
        match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        }
    }

    fn into_storage(self) -> Storage {
        Storage::Cuda(self)
    }

    fn queue(&self) -> Result<Stream> {
        let stream = self.device.cuda_stream();
        Ok(Stream { device: kernels(&stream)?, stream })
    }

    fn read<'a>(&'a self, Stream { stream, .. }: &'a Stream) -> Result<(u64, SyncOnDrop<'a>)> {
        Ok(match &self.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr(stream),
            CudaStorageSlice::F16(slice) => slice.device_ptr(stream),
            CudaStorageSlice::BF16(slice) => slice.device_ptr(stream),
            _ => return Err(unsupported(self.dtype())),
        })
    }

    fn write<'a>(&'a mut self, Stream { stream, .. }: &'a Stream) -> Result<(u64, SyncOnDrop<'a>)> {
        let dtype = self.dtype();
        Ok(match &mut self.slice {
            CudaStorageSlice::F32(slice) => slice.device_ptr_mut(stream),
            CudaStorageSlice::F16(slice) => slice.device_ptr_mut(stream),
            CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(stream),
            // A workspace.
            CudaStorageSlice::U8(slice) => slice.device_ptr_mut(stream),
            _ => return Err(unsupported(dtype)),
        })
    }
}
