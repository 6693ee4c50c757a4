use arbitrary::{Arbitrary, Unstructured};
fn main() {
    let bytes = std::fs::read(std::env::args().nth(1).unwrap()).unwrap();
    let case = warpnorm_fuzz::graph::Case::arbitrary(&mut Unstructured::new(&bytes)).unwrap();
    println!("{:?}", case.options);
    std::fs::write("/tmp/case.onnx", &case.bytes).unwrap();
}
