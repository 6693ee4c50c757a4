//! Folding of whole models: every kind of graph is folded right, or refused with its code.

mod graphs;
mod onnx;
mod writer;
