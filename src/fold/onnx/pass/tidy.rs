//! What computes nothing is taken out: `--tidy`.
//!
//! That is `Identity`, `Dropout` at inference, and the arithmetic by which exporters compute shapes that are known.

use super::{
    super::{
        constants::axis_of,
        graph::{Graph, Integers},
        node::{Node, NodeId, ValueId},
        shapes::Shapes,
    },
    routes::drops_nothing,
};

/// How many times shapes may lead to further shapes.
const MOST_ROUNDS: usize = 64;
/// The integers of a shape that is computed; no tensor has so many axes.
const MOST_INTEGERS: usize = 1 << 10;

/// Takes out of a graph what computes nothing.
pub(super) fn tidy(graph: &mut Graph<'_>) {
    for id in graph.node_ids() {
        if is_neutral(graph, graph.node(id)) {
            bypass(graph, id);
        }
    }
    for _ in 0..MOST_ROUNDS {
        let shapes = Shapes::of(graph);
        let before = graph.computed.len();
        for id in graph.node_ids() {
            let node = graph.node(id);
            let Some(output) = node.output().filter(|_| node.has_one_output() && !node.is_removed) else { continue };
            let of = graph.value(output);
            if !of.is_output
                && !of.is_captured
                && let Some(integers) = compute(graph, &shapes, node)
            {
                graph.remove(id);
                graph.computed.insert(output, integers);
            }
        }
        if graph.computed.len() == before {
            break;
        }
    }
}

fn is_neutral(graph: &Graph<'_>, node: &Node<'_>) -> bool {
    node.has_one_output() && (node.is(&["Identity"]) || node.is(&["Dropout"]) && drops_nothing(graph, node))
}

/// Takes out a node that gives what it is given.
fn bypass(graph: &mut Graph<'_>, id: NodeId) {
    let (Some(input), Some(output)) = (graph.node(id).input(0), graph.node(id).output()) else { return };
    let (from, to) = (graph.value(input), graph.value(output));
    if !to.is_output && !to.is_captured {
        graph.remove_before(id, input, output);
    } else if from.producer.is_some() && !from.is_output && !from.is_captured {
        // The name that is to stay is that of the output.
        graph.remove_behind(id, input, output);
        for (user, slot) in graph.value(input).uses.clone() {
            graph.set_input(user, slot, Some(output));
        }
    }
}

/// What a node makes, where that is integers which are known.
fn compute(graph: &Graph<'_>, shapes: &Shapes, node: &Node<'_>) -> Option<Integers> {
    const OPS: [&str; 12] = [
        "Shape",
        "Size",
        "Gather",
        "Unsqueeze",
        "Squeeze",
        "Concat",
        "Slice",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "ReduceProd",
    ];
    if !node.is(&OPS) {
        return None;
    }
    let given = |slot: usize| integers(graph, node.input(slot)?);
    let is_list = |list: &Integers| list.dims.len() == 1;
    let computed = match node.op {
        "Shape" | "Size" => {
            let dims = shapes.get(node.input(0)?)?.iter().map(|&dim| i64::try_from(dim?).ok());
            let dims = dims.collect::<Option<Vec<_>>>()?;
            if node.op == "Size" {
                let product = dims.iter().try_fold(1_i64, |product, &dim| product.checked_mul(dim))?;
                Integers { dims: Vec::new(), values: vec![product] }
            } else {
                let rank = i64::try_from(dims.len()).ok()?;
                let place = |name: &str, default: i64| {
                    let place = node.int(name, default);
                    usize::try_from(if place < 0 { place + rank } else { place }.clamp(0, rank)).ok()
                };
                let (start, end) = (place("start", 0)?, place("end", rank)?);
                list(dims.get(start..end.max(start))?.to_vec())
            }
        }
        "Gather" => {
            let (data, indices) = (given(0).filter(is_list)?, given(1)?);
            let at = |&index: &i64| data.values.get(axis_of(index, data.values.len())?).copied();
            let values = indices.values.iter().map(at).collect::<Option<Vec<_>>>()?;
            (axis_of(node.int("axis", 0), 1)? == 0).then_some(Integers { dims: indices.dims, values })?
        }
        "Unsqueeze" => {
            let data = given(0).filter(|data| data.dims.is_empty())?;
            let axes = node.ints("axes").map(<[i64]>::to_vec).or_else(|| Some(given(1)?.values))?;
            matches!(axes[..], [0 | -1]).then(|| list(data.values))?
        }
        "Squeeze" => {
            let data = given(0).filter(|data| data.dims == [1])?;
            Integers { dims: Vec::new(), values: data.values }
        }
        "Concat" => {
            let parts = (0..node.inputs.len()).map(|slot| given(slot).filter(is_list)).collect::<Option<Vec<_>>>()?;
            axis_of(node.int("axis", 0), 1)?;
            list(parts.into_iter().flat_map(|part| part.values).collect())
        }
        "Slice" => sliced(given(0).filter(is_list)?, node, &given)?,
        "ReduceProd" => {
            let data = given(0).filter(is_list)?;
            let product = data.values.iter().try_fold(1_i64, |product, &value| product.checked_mul(value))?;
            let dims = if node.int("keepdims", 1) == 0 { Vec::new() } else { vec![1] };
            Integers { dims, values: vec![product] }
        }
        op => arithmetic(op, &given(0)?, &given(1)?)?,
    };
    (computed.values.len() <= MOST_INTEGERS).then_some(computed)
}

fn list(values: Vec<i64>) -> Integers {
    Integers { dims: vec![values.len()], values }
}

/// A value's integers, if they are known and of the type that shapes have.
fn integers(graph: &Graph<'_>, value: ValueId) -> Option<Integers> {
    use super::super::tensor::ElementType;
    let tensor = graph.constant(value).ok().filter(|tensor| tensor.element == ElementType::I64)?;
    Some(Integers { values: tensor.ints()?, dims: tensor.dims })
}

fn sliced(data: Integers, node: &Node<'_>, given: &dyn Fn(usize) -> Option<Integers>) -> Option<Integers> {
    let one = |name: &str, slot: usize| {
        let found = node.ints(name).map(<[i64]>::to_vec).or_else(|| Some(given(slot)?.values))?;
        if let [one] = found[..] { Some(one) } else { None }
    };
    let axis = if node.input(3).is_some() || node.ints("axes").is_some() { one("axes", 3)? } else { 0 };
    let step = if node.input(4).is_some() { one("steps", 4)? } else { 1 };
    if step != 1 || axis_of(axis, 1) != Some(0) {
        return None;
    }
    let len = i64::try_from(data.values.len()).ok()?;
    let place =
        |place: i64| usize::try_from(if place < 0 { place.checked_add(len)? } else { place }.clamp(0, len)).ok();
    let (start, end) = (place(one("starts", 1)?)?, place(one("ends", 2)?)?);
    Some(list(data.values.get(start..end.max(start))?.to_vec()))
}

fn arithmetic(op: &str, left: &Integers, right: &Integers) -> Option<Integers> {
    let combine = |left: i64, right: i64| match op {
        "Add" => left.checked_add(right),
        "Sub" => left.checked_sub(right),
        "Mul" => left.checked_mul(right),
        // Of negative numbers it is told in several ways.
        "Div" if left >= 0 && right > 0 => Some(left / right),
        _ => None,
    };
    let len = left.values.len().max(right.values.len());
    let is_alike = left.dims == right.dims
        || left.values.len() == 1 && left.dims.len() <= right.dims.len()
        || right.values.len() == 1 && right.dims.len() <= left.dims.len();
    if !is_alike || left.values.is_empty() || right.values.is_empty() {
        return None;
    }
    let at = |integers: &Integers, index: usize| integers.values[if integers.values.len() == 1 { 0 } else { index }];
    let values = (0..len).map(|index| combine(at(left, index), at(right, index))).collect::<Option<Vec<_>>>()?;
    // One number may be a list of one, and then so is what comes of it and another.
    let long = [left, right].into_iter().max_by_key(|integers| (integers.values.len(), integers.dims.len()))?;
    Some(Integers { dims: long.dims.clone(), values })
}
