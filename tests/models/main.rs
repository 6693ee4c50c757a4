//! Folding of whole models: every kind of graph is folded right, or refused with its code.

mod checkpoint;
mod convert;
mod graphs;
mod hostile;
mod onnx;
mod seeds;
mod tidy;
mod writer;
