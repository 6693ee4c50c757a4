//! candle's storage, as the addresses that warpnorm's raw layer takes.

use candle_core::backend::{BackendDevice, BackendStorage};
use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage};
use warpnorm::raw;

/// The storage of one kind of device.
pub(crate) trait Memory: BackendStorage<Device: BackendDevice<Storage = Self>> {
    type Queue: Queue;
    /// Held until the launch is in the queue.
    type Guard<'a>
    where
        Self: 'a;

    fn of(storage: &Storage) -> Option<&Self>;
    fn into_storage(self) -> Storage;
    fn queue(&self) -> Result<Self::Queue>;

    /// The address of the first element, for reading.
    fn read<'a>(&'a self, queue: &'a Self::Queue) -> Result<(u64, Self::Guard<'a>)>;
    /// The address of the first element, for writing.
    fn write<'a>(&'a mut self, queue: &'a Self::Queue) -> Result<(u64, Self::Guard<'a>)>;
}

/// Where the calls on a storage go.
pub(crate) trait Queue {
    fn device(&self) -> &raw::Device;
    fn stream(&self) -> raw::Stream;
}

/// A tensor in memory, as ops get it.
pub(crate) type Place<'a, S> = (&'a S, &'a Layout);

/// Of what a call reads and writes: every address is good as long as this lives.
pub(crate) struct Operands<'a, S: Memory + 'a> {
    queue: &'a S::Queue,
    guards: Vec<S::Guard<'a>>,
}

impl<'a, S: Memory + 'a> Operands<'a, S> {
    pub(crate) const fn new(queue: &'a S::Queue) -> Self {
        Self { queue, guards: Vec::new() }
    }

    /// The address of a tensor's first element.
    pub(crate) fn read(&mut self, (storage, layout): Place<'a, S>) -> Result<u64> {
        let (address, guard) = storage.read(self.queue)?;
        self.guards.push(guard);
        Ok(address + (layout.start_offset() * storage.dtype().size_in_bytes()) as u64)
    }

    /// The address of all of a storage.
    pub(crate) fn write(&mut self, storage: &'a mut S) -> Result<u64> {
        let (address, guard) = storage.write(self.queue)?;
        self.guards.push(guard);
        Ok(address)
    }
}

pub(crate) fn unsupported(dtype: DType) -> Error {
    Error::UnsupportedDTypeForOp(dtype, "warpnorm").bt()
}

/// On the CPU a call has finished when it returns.
impl Queue for raw::Device {
    fn device(&self) -> &raw::Device {
        self
    }

    fn stream(&self) -> raw::Stream {
        raw::DEFAULT_STREAM
    }
}

impl Memory for CpuStorage {
    type Queue = raw::Device;
    type Guard<'a> = ();

    fn of(storage: &Storage) -> Option<&Self> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn into_storage(self) -> Storage {
        Storage::Cpu(self)
    }

    fn queue(&self) -> Result<raw::Device> {
        Ok(raw::Device::cpu())
    }

    fn read<'a>(&'a self, _: &'a raw::Device) -> Result<(u64, ())> {
        let address = match self {
            Self::F32(values) => values.as_ptr().expose_provenance(),
            Self::F16(values) => values.as_ptr().expose_provenance(),
            Self::BF16(values) => values.as_ptr().expose_provenance(),
            other => return Err(unsupported(other.dtype())),
        };
        Ok((address as u64, ()))
    }

    fn write<'a>(&'a mut self, _: &'a raw::Device) -> Result<(u64, ())> {
        let address = match self {
            Self::F32(values) => values.as_mut_ptr().expose_provenance(),
            Self::F16(values) => values.as_mut_ptr().expose_provenance(),
            Self::BF16(values) => values.as_mut_ptr().expose_provenance(),
            other => return Err(unsupported(other.dtype())),
        };
        Ok((address as u64, ()))
    }
}
