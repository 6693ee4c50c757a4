//! Buffers on either backend, so that one test runs over both.

use std::ops::Range;

use warpnorm::cudarc::driver::{CudaSlice, CudaView, CudaViewMut, DevicePtr as _, DeviceRepr};
use warpnorm::{Backend, Cpu, Cuda, Element, Sink, Source, Stored, raw};

/// What tests store: both backends can hold it.
pub trait Held: Stored + DeviceRepr + Unpin + Default {}
impl<T: Stored + DeviceRepr + Unpin + Default> Held for T {}

/// What tests compute with.
pub trait Real: Element + Held {}
impl<T: Element + Held> Real for T {}

/// A backend with memory of its own.
pub trait Place: Backend {
    type Buffer<T: Held>;
    type View<'a, T: Held>: Source<Self, T>;
    type ViewMut<'a, T: Held>: Sink<Self, T>;
    type Counter;
    type CounterMut<'a>: Sink<Self, i64>;
    const NAME: &'static str;
    fn put<T: Held>(&self, values: &[T]) -> Self::Buffer<T>;
    fn get<T: Held>(&self, buffer: &Self::Buffer<T>) -> Vec<T>;
    fn view<'a, T: Held>(&self, buffer: &'a Self::Buffer<T>, range: Range<usize>) -> Self::View<'a, T>;
    fn view_mut<'a, T: Held>(&self, buffer: &'a mut Self::Buffer<T>, range: Range<usize>) -> Self::ViewMut<'a, T>;
    fn put_counter(&self, value: i64) -> Self::Counter;
    fn get_counter(&self, counter: &Self::Counter) -> i64;
    fn view_counter<'a>(&self, counter: &'a mut Self::Counter) -> Self::CounterMut<'a>;
    /// The same place for the raw layer.
    fn raw(&self) -> (raw::Device, raw::Stream);
    fn address<T: Held>(&self, buffer: &mut Self::Buffer<T>) -> u64;
    fn address_of_counter(&self, counter: &mut Self::Counter) -> u64;
}

impl Place for Cpu {
    type Buffer<T: Held> = Vec<T>;
    type View<'a, T: Held> = &'a [T];
    type ViewMut<'a, T: Held> = &'a mut [T];
    type Counter = [i64; 1];
    type CounterMut<'a> = &'a mut [i64];
    const NAME: &'static str = "cpu";

    fn put<T: Held>(&self, values: &[T]) -> Vec<T> {
        values.to_vec()
    }

    fn get<T: Held>(&self, buffer: &Vec<T>) -> Vec<T> {
        buffer.clone()
    }

    fn view<'a, T: Held>(&self, buffer: &'a Vec<T>, range: Range<usize>) -> &'a [T] {
        &buffer[range]
    }

    fn view_mut<'a, T: Held>(&self, buffer: &'a mut Vec<T>, range: Range<usize>) -> &'a mut [T] {
        &mut buffer[range]
    }

    fn put_counter(&self, value: i64) -> [i64; 1] {
        [value]
    }

    fn get_counter(&self, counter: &[i64; 1]) -> i64 {
        counter[0]
    }

    fn view_counter<'a>(&self, counter: &'a mut [i64; 1]) -> &'a mut [i64] {
        counter
    }

    fn raw(&self) -> (raw::Device, raw::Stream) {
        (raw::Device::cpu(), raw::DEFAULT_STREAM)
    }

    fn address<T: Held>(&self, buffer: &mut Vec<T>) -> u64 {
        buffer.as_mut_ptr().expose_provenance() as u64
    }

    fn address_of_counter(&self, counter: &mut [i64; 1]) -> u64 {
        counter.as_mut_ptr().expose_provenance() as u64
    }
}

impl Place for Cuda {
    type Buffer<T: Held> = CudaSlice<T>;
    type View<'a, T: Held> = CudaView<'a, T>;
    type ViewMut<'a, T: Held> = CudaViewMut<'a, T>;
    type Counter = CudaSlice<i64>;
    type CounterMut<'a> = CudaViewMut<'a, i64>;
    const NAME: &'static str = "cuda";

    fn put<T: Held>(&self, values: &[T]) -> CudaSlice<T> {
        // CUDA has no allocation of nothing; views of the first zero elements serve.
        let padded = if values.is_empty() { &[T::default()] } else { values };
        self.stream().clone_htod(padded).expect("upload")
    }

    fn get<T: Held>(&self, buffer: &CudaSlice<T>) -> Vec<T> {
        self.stream().clone_dtoh(buffer).expect("download")
    }

    fn view<'a, T: Held>(&self, buffer: &'a CudaSlice<T>, range: Range<usize>) -> CudaView<'a, T> {
        buffer.slice(range)
    }

    fn view_mut<'a, T: Held>(&self, buffer: &'a mut CudaSlice<T>, range: Range<usize>) -> CudaViewMut<'a, T> {
        buffer.slice_mut(range)
    }

    fn put_counter(&self, value: i64) -> CudaSlice<i64> {
        self.stream().clone_htod(&[value]).expect("upload")
    }

    fn get_counter(&self, counter: &CudaSlice<i64>) -> i64 {
        self.stream().clone_dtoh(counter).expect("download")[0]
    }

    fn view_counter<'a>(&self, counter: &'a mut CudaSlice<i64>) -> CudaViewMut<'a, i64> {
        counter.slice_mut(0..1)
    }

    fn raw(&self) -> (raw::Device, raw::Stream) {
        (raw::Device::from(self), self.stream().cu_stream().cast())
    }

    fn address<T: Held>(&self, buffer: &mut CudaSlice<T>) -> u64 {
        buffer.device_ptr(self.stream()).0
    }

    fn address_of_counter(&self, counter: &mut CudaSlice<i64>) -> u64 {
        counter.device_ptr(self.stream()).0
    }
}
