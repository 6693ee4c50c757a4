//! Writes what fuzzing begins with where there is no corpus: `seeds CORPUS`.

use std::{env, fs, path::Path};

use arbitrary::{Arbitrary, Unstructured};
use warpnorm_fuzz::{graph::Case, seeds};

/// Graphs to write as models, from the same numbers each time.
const GRAPHS: u64 = 400;

fn main() {
    let corpus = env::args_os().nth(1).expect("the folder of the corpus");
    let write = |target: &str, name: String, bytes: &[u8]| {
        let folder = Path::new(&corpus).join(target);
        fs::create_dir_all(&folder).expect("a folder of the corpus");
        fs::write(folder.join(name), bytes).expect("a file of the corpus");
    };
    for (index, model) in seeds::seeds().iter().enumerate() {
        write("onnx", format!("model-{index}"), model);
    }
    write("safetensors", "dict".to_owned(), &seeds::dict());
    let mut state = 1_u64;
    for index in 0..GRAPHS {
        let bytes = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        let bytes: Vec<u8> = bytes.take(512).collect();
        write("onnx_graph", format!("graph-{index}"), &bytes);
        if let Ok(case) = Case::arbitrary(&mut Unstructured::new(&bytes)) {
            write("onnx", format!("graph-{index}"), &case.bytes);
        }
    }
}
