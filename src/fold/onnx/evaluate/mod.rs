//! A small evaluator in f64 of the operators that convolutional networks are made of.
//!
//! It is there to prove folds: it is written apart from the folding, and knows of no per-channel maps. What it does not know
//! it says so.

mod array;
mod operators;
mod shaping;
mod windows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use array::Array;

use super::{
    file::Model,
    graph::Graph,
    node::{NodeId, ValueId},
    shapes::Shapes,
};

/// Why a model cannot be evaluated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// The evaluator does not have the operator, or not with these attributes and shapes.
    #[error("the evaluator cannot compute {node}, a {op} of {shapes}")]
    Operator {
        /// The node.
        node: String,
        /// Its operator.
        op: String,
        /// The shapes of its inputs, in words.
        shapes: String,
    },
    /// The model is not valid.
    #[error("{reason}")]
    Model {
        /// What is wrong with it.
        reason: String,
    },
    /// The values that are held at the same time would take too much memory.
    #[error("the evaluator would need too much memory for the inputs of {node}")]
    TooLarge {
        /// The node at which they do.
        node: String,
    },
    /// A value is missing: an input was not given, or the nodes are not in order.
    #[error("the value {value} is not there when it is needed")]
    Missing {
        /// The value.
        value: String,
    },
}

/// What a model is given.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelInput {
    /// Its name.
    pub name: String,
    /// The lengths of its axes; those that the model leaves open are `None`.
    pub dims: Vec<Option<usize>>,
}

impl Model {
    /// What the model is given: the inputs that are not initializers, with their shapes as far as it states them.
    ///
    /// # Errors
    ///
    /// [`ModelError`](super::ModelError) where the model is not valid.
    pub fn inputs(&self) -> Result<Vec<ModelInput>, super::ModelError> {
        let graph = Graph::read(self)?;
        let shapes = Shapes::of(&graph);
        let given = graph.inputs.iter().filter(|&&id| graph.value(id).initializer.is_none());
        let described = |&id: &ValueId| ModelInput {
            name: graph.value(id).name.to_string(),
            dims: shapes.get(id).cloned().unwrap_or_default(),
        };
        Ok(given.map(described).collect())
    }

    /// Evaluates the model in f64, on inputs by their names. Returns its outputs, in order.
    ///
    /// # Errors
    ///
    /// [`EvaluationError`] where the evaluator lacks an operator, or an input is missing or does not fit.
    pub fn evaluate(&self, inputs: &BTreeMap<String, Array>) -> Result<Vec<(String, Array)>, EvaluationError> {
        let graph = Graph::read(self).map_err(|error| EvaluationError::Model { reason: error.to_string() })?;
        let find = |name: &String| graph.find(name).ok_or_else(|| EvaluationError::Missing { value: name.clone() });
        let given = inputs.iter().map(|(name, array)| Ok((find(name)?, Arc::new(array.clone()))));
        let given = given.collect::<Result<Given, EvaluationError>>()?;
        let outputs = evaluate(&graph, &given, &graph.outputs, Mode::Values, |_, _| ())?;
        let named = graph.outputs.iter().zip(outputs);
        Ok(named.map(|(&id, array)| (graph.value(id).name.to_string(), Array::clone(&array))).collect())
    }
}

/// Whether values are computed, or bounds of their magnitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Values,
    /// Every term counts by its magnitude: what rounding errors are to be measured against.
    Magnitudes,
}

/// The elements that all arrays together may have before a node: few files have as many, and those that would make many of
/// few shall not.
const MOST_HELD: usize = 8 * array::MOST;

pub(super) type Given = BTreeMap<ValueId, Arc<Array>>;

/// Computes values of a graph from those that are given.
pub(super) fn evaluate(
    graph: &Graph<'_>,
    given: &Given,
    wanted: &[ValueId],
    mode: Mode,
    mut watch: impl FnMut(ValueId, &Array),
) -> Result<Vec<Arc<Array>>, EvaluationError> {
    let needed = needed(graph, given, wanted);
    let mut readers: BTreeMap<ValueId, usize> = BTreeMap::new();
    for &id in &needed {
        for &input in graph.node(id).inputs.iter().flatten() {
            *readers.entry(input).or_default() += 1;
        }
    }
    let mut values: Given = given.clone();
    for id in needed {
        let node = graph.node(id);
        let mut held: usize = values.values().map(|array| array.data.len()).sum();
        let mut input_of = |input: ValueId| {
            let array = value(graph, &values, input, mode)?;
            held = held.saturating_add(array.data.len());
            if held > MOST_HELD { Err(EvaluationError::TooLarge { node: graph.label(id) }) } else { Ok(array) }
        };
        let inputs = node.inputs.iter().map(|input| input.map(&mut input_of).transpose());
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        let outputs = operators::run(graph, node, &inputs, mode).ok_or_else(|| refused(graph, id, &inputs))?;
        for (&output, array) in node.outputs.iter().zip(outputs) {
            if let Some(output) = output {
                watch(output, &array);
                values.insert(output, Arc::new(array));
            }
        }
        // What nobody reads any more need not be held.
        for &input in node.inputs.iter().flatten() {
            let left = readers.entry(input).or_insert(1);
            *left -= 1;
            if *left == 0 && !wanted.contains(&input) {
                values.remove(&input);
            }
        }
    }
    wanted.iter().map(|&wanted| value(graph, &values, wanted, mode)).collect()
}

/// The nodes that values need, in order.
fn needed(graph: &Graph<'_>, given: &Given, wanted: &[ValueId]) -> BTreeSet<NodeId> {
    let mut needed = BTreeSet::new();
    let mut open: Vec<_> = wanted.to_vec();
    while let Some(value) = open.pop() {
        if given.contains_key(&value) {
            continue;
        }
        if let Some(id) = graph.producer(value)
            && needed.insert(id)
        {
            open.extend(graph.node(id).inputs.iter().flatten());
        }
    }
    needed
}

fn value(graph: &Graph<'_>, values: &Given, id: ValueId, mode: Mode) -> Result<Arc<Array>, EvaluationError> {
    if let Some(array) = values.get(&id) {
        return Ok(array.clone());
    }
    let missing = || EvaluationError::Missing { value: graph.value(id).name.to_string() };
    if graph.value(id).initializer.is_none() {
        return Err(missing());
    }
    let tensor = graph.initializer(id).ok_or_else(missing)?;
    let data = operators::magnitudes(&tensor, mode).ok_or_else(missing)?;
    graph.externals.forget(&tensor.data);
    Ok(Arc::new(Array { dims: tensor.dims, data }))
}

fn refused(graph: &Graph<'_>, id: NodeId, inputs: &[Option<Arc<Array>>]) -> EvaluationError {
    let shapes: Vec<_> = inputs.iter().flatten().map(|array| format!("{:?}", array.dims)).collect();
    EvaluationError::Operator { node: graph.label(id), op: graph.node(id).op.to_owned(), shapes: shapes.join(", ") }
}
