//! Every layer on this machine, by criterion: throughput in bytes read and written, beside a copy that moves as many.
//!
//! `cargo bench --bench layers` measures the CPU and, where there is a GPU, CUDA by graphs and events. A filter picks, as
//! in `cargo bench --bench layers -- cpu/layer_norm/4096x1024`.

mod harness;

#[path = "../tests/it/data.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod data;
#[path = "../tests/it/oracle.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod oracle;
#[path = "../tests/it/place.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod place;

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use harness::Result;
use harness::case::Case;
use harness::cell::{Cell, Work};
use harness::cuda::Gpu;
use harness::{cpu, cuda, suites};

fn on_cpu(criterion: &mut Criterion) {
    let mut group = group(criterion, "cpu");
    for case in suites::cpu() {
        bench(&mut group, &case, &|| cpu::cell(&case));
    }
    group.finish();
}

fn on_cuda(criterion: &mut Criterion) {
    let gpu = match Gpu::open(None) {
        Ok(gpu) => gpu,
        Err(error) => return println!("cuda: not measured: {error}"),
    };
    let mut group = group(criterion, "cuda");
    for case in [suites::rows_on_gpu(), suites::images_on_gpu(), suites::decode()].concat() {
        bench(&mut group, &case, &|| cuda::cell(&gpu, &case));
    }
    group.finish();
}

fn group<'c>(criterion: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = criterion.benchmark_group(name);
    // A sample is a whole window of the harness, and so a mean of many calls already.
    group.sampling_mode(SamplingMode::Flat).sample_size(15);
    group.warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(500));
    group
}

/// The call, and a copy under the same name with `/copy` behind. The cell is made when criterion first wants it, which it
/// never does for what its filter leaves out.
fn bench<'a>(group: &mut BenchmarkGroup<'_, WallTime>, case: &Case, make: &dyn Fn() -> Result<Box<dyn Cell + 'a>>) {
    let mut cell: Option<Box<dyn Cell + 'a>> = None;
    group.throughput(Throughput::Bytes(case.bytes() as u64));
    for (work, suffix) in [(Work::Call, ""), (Work::Copy, "/copy")] {
        group.bench_function(BenchmarkId::from_parameter(format!("{case}{suffix}")), |bencher| {
            let cell = cell.get_or_insert_with(|| make().unwrap_or_else(|error| panic!("{case}: {error}")));
            bencher.iter_custom(|iterations| {
                let seconds = cell.window(work).unwrap_or_else(|error| panic!("{case}: {error}"));
                Duration::from_secs_f64(seconds * iterations as f64)
            });
        });
    }
}

criterion_group!(benches, on_cpu, on_cuda);
criterion_main!(benches);
