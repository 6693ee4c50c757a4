//! The proof that a folded model computes what the model did, without any other runtime.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    evaluate::{Array, EvaluationError, Given, Mode, evaluate},
    file::Model,
    graph::Graph,
    node::{Node, NodeId, ValueId},
    pass::{Unit, batch_norm_tensors, epsilon},
    plan::Plan,
    shapes::Shapes,
    tensor::ElementType,
};
use crate::fold::models::{ModelError, PairCheck, Random, Verification, Whole};
use crate::{element::DType, fold::Side};

impl Plan<'_> {
    /// Compares the model with its folded form, which is read from the file that was written.
    ///
    /// Each stretch that was changed is evaluated alone, and then the whole model on `samples` random inputs. `tolerance` is
    /// how far the whole may be off, as a part of the largest magnitude of an output; by default 1e-4 where all folded
    /// weights are f32 before and after, 0.05 with f16 and 0.2 with bf16. What activations lose in a type is not looked at:
    /// all is evaluated in f64.
    ///
    /// # Errors
    ///
    /// [`ModelError`] where the folded model cannot be read.
    pub fn verify(&self, folded: &Model, samples: usize, tolerance: Option<f64>) -> Result<Verification, ModelError> {
        let (mut before, mut after) = (Graph::read(self.model())?, Graph::read(folded)?);
        for graph in [&mut before, &mut after] {
            graph.freezes_inputs = self.pass().graph.freezes_inputs;
        }
        let shapes = &self.pass().shapes;
        let compared = Comparison { plan: self, before: &before, after: &after, shapes };
        let pairs = self.pass().units.iter().map(|unit| compared.pair(unit)).collect();
        let tolerance = tolerance.unwrap_or_else(|| self.tolerance());
        Ok(Verification { pairs, whole: compared.whole(samples.max(1), tolerance) })
    }

    fn tolerance(&self) -> f64 {
        let of = |dtype| match dtype {
            Some(DType::F16) => 0.05,
            Some(DType::Bf16) => 0.2,
            Some(DType::F32) | None => 1e-4,
        };
        let stored = self.pass().layers.values().map(|linear| linear.weight.element().dtype());
        stored.chain([self.pass().dtype()]).map(of).fold(1e-4, f64::max)
    }
}

struct Comparison<'a> {
    plan: &'a Plan<'a>,
    before: &'a Graph<'a>,
    after: &'a Graph<'a>,
    shapes: &'a Shapes,
}

impl Comparison<'_> {
    fn pair(&self, unit: &Unit) -> PairCheck {
        let pass = self.plan.pass();
        let nodes = unit.members.iter().filter(|&&id| !pass.graph.node(id).is_removed).map(|&id| pass.graph.label(id));
        // A small input is enough, unless something between has the model's own sizes in it. A reshape has, and may take a
        // small one for something else.
        let producer = |value: &ValueId| self.before.values.get(value.0)?.producer;
        let made = unit.inside.iter().chain(&unit.outputs).filter_map(producer);
        let small_first = !made.into_iter().any(|(id, _)| self.before.node(id).is(&["Reshape"]));
        let attempts = [small_first, !small_first].map(|small| self.inputs_of(unit, small));
        let mut error = Err("the shapes of its inputs are not known".to_owned());
        for inputs in attempts.into_iter().flatten() {
            let found = self.compare_unit(unit, &self.consistent(inputs)).map_err(|error| error.to_string());
            if error.is_err() || found.is_ok() {
                error = found;
            }
            // In another size a change of shape may be another one, and then so is the result.
            if error.as_ref().is_ok_and(|&error| error <= 1.0) {
                break;
            }
        }
        PairCheck { nodes: nodes.collect(), error }
    }

    /// Random inputs of a unit, by the names of the values.
    fn inputs_of(&self, unit: &Unit, small: bool) -> Option<BTreeMap<String, Array>> {
        let mut random = Random::new(7);
        let size = self.small_size(unit);
        let shape = |value: ValueId| {
            let (rank, axis, channels) = self.channels_of(unit, value)?;
            let known = |axis: usize| self.shapes.dim(value, axis);
            let spatial = |at: usize| if small { Some(size) } else { known(at) };
            let dim = |at: usize| {
                if at == axis {
                    Some(channels)
                } else if at == 0 {
                    // A batch of one is another thing than one of more, which `Squeeze` leaves alone.
                    known(0).map(|samples| if small { samples.min(2) } else { samples }).or(Some(1))
                } else {
                    spatial(at)
                }
            };
            (0..rank).map(dim).collect::<Option<Vec<_>>>()
        };
        let pass = self.plan.pass();
        let named = |&value: &ValueId| {
            Some((pass.graph.value(value).name.to_string(), random_array(&mut random, shape(value)?)?))
        };
        unit.inputs.iter().map(named).collect()
    }

    /// Inputs of a unit, where those that follow from others are what the model makes of these: a layer and its copy are
    /// perhaps read in different places.
    fn consistent(&self, mut inputs: BTreeMap<String, Array>) -> BTreeMap<String, Array> {
        let producer = |name: &String| self.before.producer(self.before.find(name)?);
        let mut made: Vec<_> = inputs.keys().filter_map(|name| Some((producer(name)?, name.clone()))).collect();
        made.sort();
        for (_, name) in made.into_iter().filter(|_| inputs.len() > 1).collect::<Vec<_>>() {
            let Some(own) = inputs.remove(&name) else { continue };
            let computed = self.given(self.before, &inputs, Mode::Values).and_then(|given| {
                let wanted = find(self.before, [&name].into_iter())?;
                evaluate(self.before, &given, &wanted, Mode::Values, |_, _| ())
            });
            let array = computed.ok().and_then(|arrays| arrays.first().map(|array| Array::clone(array)));
            inputs.insert(name, array.unwrap_or(own));
        }
        inputs
    }

    /// The rank of a unit's input, the axis of its channels, and how many these are.
    fn channels_of(&self, unit: &Unit, value: ValueId) -> Option<(usize, usize, usize)> {
        let pass = self.plan.pass();
        let layers = unit.members.iter().filter_map(|id| Some((pass.graph.node(*id), pass.layers.get(id)?)));
        for (node, linear) in layers {
            if self.reads(node, value) {
                let rank = self.shapes.rank(value).unwrap_or(linear.weight.dims().len());
                return Some((rank, linear.input_axis, linear.channels(Side::Before)));
            }
        }
        let maps = || unit.members.iter().filter_map(|id| pass.found.get(id));
        let found = maps().find(|found| found.data == Some(value))?;
        // What follows one that is the same for all channels may not be.
        let found = maps().find(|map| found.channels.is_none() && map.channels.is_some()).unwrap_or(found);
        // Of a map of one axis the rank matters to nobody, nor how many channels a map has that is the same for all.
        let channels = found.channels.or_else(|| self.shapes.dim(value, 1)).unwrap_or(1);
        Some((self.shapes.rank(value).unwrap_or(4.max(found.axis + 1)), found.axis, channels))
    }

    /// Whether a node of the folded graph reads a value, perhaps in another type.
    fn reads(&self, node: &Node<'_>, value: ValueId) -> bool {
        let pass = self.plan.pass();
        let Some(input) = node.input(0) else { return false };
        let is_cast_of = |id| pass.graph.node(id).is(&["Cast"]) && pass.graph.node(id).input(0) == Some(value);
        input == value || pass.twins.get(&value) == Some(&input) || pass.graph.producer(input).is_some_and(is_cast_of)
    }

    /// Inputs by names, as values of one of the graphs.
    fn given(&self, graph: &Graph<'_>, inputs: &BTreeMap<String, Array>, mode: Mode) -> Result<Given, EvaluationError> {
        let values = find(graph, inputs.keys())?;
        let arrays =
            inputs.values().map(|array| if mode == Mode::Magnitudes { array.map(f64::abs) } else { array.clone() });
        let mut given: Given = values.into_iter().zip(arrays.map(Arc::new)).collect();
        if std::ptr::eq(graph, self.after) {
            // Some are read under another name, in another type.
            let pass = self.plan.pass();
            let name = |value: ValueId| &*pass.graph.value(value).name;
            for (&value, &twin) in &pass.twins {
                let found = self.after.find(name(value)).and_then(|value| given.get(&value)).cloned();
                given.extend(self.after.find(name(twin)).zip(found));
            }
        }
        Ok(given)
    }

    /// A length at which every window of the unit has a few positions.
    fn small_size(&self, unit: &Unit) -> usize {
        let pass = self.plan.pass();
        let sizes = unit.members.iter().filter_map(|id| {
            let (node, linear) = (pass.graph.node(*id), pass.layers.get(id)?);
            let most =
                |name: &str| node.ints(name).and_then(|list| list.iter().copied().max()).unwrap_or(1).clamp(1, 64);
            let kernel = linear.weight.dims().get(2..)?.iter().copied().max().unwrap_or(1);
            Some((kernel - 1) * most("dilations") as usize + 1 + 2 * most("strides") as usize)
        });
        sizes.max().unwrap_or(4).max(4)
    }

    /// The largest error, as a part of the bound.
    fn compare_unit(&self, unit: &Unit, inputs: &BTreeMap<String, Array>) -> Result<f64, EvaluationError> {
        let names: Vec<String> =
            unit.outputs.iter().map(|&value| self.plan.pass().graph.value(value).name.to_string()).collect();
        let run = |graph: &Graph<'_>, mode| {
            let given = self.given(graph, inputs, mode)?;
            evaluate(graph, &given, &find(graph, names.iter())?, mode, |_, _| ())
        };
        let (before, after) = (run(self.before, Mode::Values)?, run(self.after, Mode::Values)?);
        let (terms, terms_before) = (run(self.after, Mode::Magnitudes)?, run(self.before, Mode::Magnitudes)?);
        let (unit_roundoff, least) = self.roundoff(unit);
        let mut worst = 0.0_f64;
        for index in 0..names.len() {
            if before[index].dims != after[index].dims {
                return Ok(f64::INFINITY);
            }
            let values = before[index].data.iter().zip(&after[index].data);
            let bounds = terms[index].data.iter().zip(&terms_before[index].data);
            for ((before, after), (terms, terms_before)) in values.zip(bounds) {
                let bound = 2.0 * unit_roundoff * terms + least + 1e-13 * terms_before;
                let error = (before - after).abs();
                let part = if error == 0.0 { 0.0 } else { error / bound };
                worst = if part.is_nan() { f64::INFINITY } else { worst.max(part) };
            }
        }
        Ok(worst)
    }

    /// Half the spacing of the coarsest type in the unit, and what its smallest numbers may add to an output.
    fn roundoff(&self, unit: &Unit) -> (f64, f64) {
        let pass = self.plan.pass();
        let of = |element: ElementType| match element {
            ElementType::F16 => (2.0_f64.powi(-11), 2.0_f64.powi(-25)),
            ElementType::Bf16 => (2.0_f64.powi(-8), 2.0_f64.powi(-134)),
            _ => (2.0_f64.powi(-24), 2.0_f64.powi(-150)),
        };
        let layers = unit.members.iter().filter_map(|id| pass.layers.get(id));
        let parts = layers.map(|linear| {
            let (roundoff, least) = of(pass.stored(linear.weight.element()));
            let taps: usize = linear.weight.dims().iter().skip(1).product();
            (roundoff, least * (taps + 1) as f64)
        });
        let maps = unit.members.iter().filter(|id| !pass.layers.contains_key(id));
        let maps = maps.filter_map(|&id| {
            let constant = pass.graph.node(id).input(1)?;
            // One that is cast has a type that the wish alone tells.
            let element = self.after_element(constant).or(pass.dtype().map(ElementType::from))?;
            let (roundoff, least) = of(pass.stored(element));
            Some((roundoff, least * (1.0 + self.gain(id))))
        });
        parts
            .chain(maps)
            .fold((2.0_f64.powi(-24), 0.0), |(most, sum), (roundoff, least)| (most.max(roundoff), sum + least))
    }

    /// What the weight of a `BatchNormalization` is multiplied by at most, where its input is at most 1.
    fn gain(&self, id: NodeId) -> f64 {
        let is_given = id.0 < self.before.nodes.len() && self.before.node(id).is(&["BatchNormalization"]);
        let Some([_, _, mean, var]) = is_given.then(|| batch_norm_tensors(self.before, id).ok()).flatten() else {
            return 1.0;
        };
        let (Some(mean), Some(var)) = (mean.values(), var.values()) else { return 1.0 };
        let eps = epsilon(self.before.node(id));
        let gains = mean.to_vec().into_iter().zip(var.to_vec());
        gains.map(|(mean, var)| (1.0 + mean.abs()) / (var + eps).sqrt()).fold(1.0, f64::max)
    }

    fn after_element(&self, value: ValueId) -> Option<ElementType> {
        let name = &self.plan.pass().graph.value(value).name;
        self.after.find(name).and_then(|value| self.after.initializer(value)).map(|tensor| tensor.element)
    }

    fn whole(&self, samples: usize, tolerance: f64) -> Whole {
        let (mut max_error, mut relative_l2, mut same, mut rows) = (0.0_f64, 0.0_f64, 0, 0);
        for sample in 0..samples {
            let inputs = match self.model_inputs(sample as u64) {
                Ok(inputs) => inputs,
                Err(reason) => return Whole::NotVerified { reason },
            };
            let run = |graph: &Graph<'_>| {
                let given = self.given(graph, &inputs, Mode::Values)?;
                evaluate(graph, &given, &graph.outputs, Mode::Values, |_, _| ())
            };
            let (before, after) = match run(self.before).and_then(|before| Ok((before, run(self.after)?))) {
                Ok(both) => both,
                Err(error) => return Whole::NotVerified { reason: error.to_string() },
            };
            for (before, after) in before.iter().zip(&after) {
                let (error, l2) = difference(before, after);
                (max_error, relative_l2) = (max_error.max(error), relative_l2.max(l2));
                if let [_, columns] = before.dims[..]
                    && columns > 0
                {
                    let pairs = before.data.chunks_exact(columns).zip(after.data.chunks_exact(columns));
                    rows += before.dims[0];
                    same += pairs.filter(|(before, after)| largest(before) == largest(after)).count();
                }
            }
            if max_error > tolerance {
                let first_different = self.first_different(&inputs, tolerance);
                return Whole::Compared {
                    max_error,
                    relative_l2,
                    same_largest: (same, rows),
                    tolerance,
                    first_different,
                };
            }
        }
        Whole::Compared { max_error, relative_l2, same_largest: (same, rows), tolerance, first_different: None }
    }

    /// Random inputs of the model.
    fn model_inputs(&self, seed: u64) -> Result<BTreeMap<String, Array>, String> {
        let mut random = Random::new(seed);
        let mut inputs = BTreeMap::new();
        for &id in &self.before.inputs {
            let value = self.before.value(id);
            if value.initializer.is_some() {
                continue;
            }
            let dims =
                self.shapes.get(id).ok_or_else(|| format!("the shape of the input {} is not known", value.name))?;
            let element = value.value_info.and_then(|info| super::shapes::stated_type(info).ok().flatten());
            if element.is_none_or(|(element, _)| element.dtype().is_none() && element != ElementType::F64) {
                return Err(format!("the input {} is not floating-point", value.name));
            }
            // One sample, and of what else is open as much as an image of a small size.
            let dims =
                dims.iter().enumerate().map(|(axis, &dim)| dim.unwrap_or(if axis == 0 { 1 } else { 64 })).collect();
            let array =
                random_array(&mut random, dims).ok_or_else(|| format!("the input {} is too large", value.name))?;
            inputs.insert(value.name.to_string(), array);
        }
        Ok(inputs)
    }

    /// The first value that is in both models, has kept its meaning, and differs.
    fn first_different(&self, inputs: &BTreeMap<String, Array>, tolerance: f64) -> Option<String> {
        let pass = self.plan.pass();
        let inside = pass.units.iter().flat_map(|unit| &unit.inside);
        let inside: Vec<_> = inside.map(|&value| pass.graph.value(value).name.to_string()).collect();
        let mut seen = BTreeMap::new();
        let of_before = self.given(self.before, inputs, Mode::Values).ok()?;
        let watch = |value: ValueId, array: &Array| {
            let name = self.before.value(value).name.to_string();
            if self.after.find(&name).is_some() && !inside.contains(&name) {
                seen.insert(name, array.clone());
            }
        };
        evaluate(self.before, &of_before, &self.before.outputs, Mode::Values, watch).ok()?;
        let mut first = None;
        let of_after = self.given(self.after, inputs, Mode::Values).ok()?;
        let watch = |value: ValueId, array: &Array| {
            let name = &*self.after.value(value).name;
            let differs = seen.get(name).is_some_and(|before| difference(before, array).0 > tolerance);
            if first.is_none() && differs {
                first = Some(name.to_owned());
            }
        };
        evaluate(self.after, &of_after, &self.after.outputs, Mode::Values, watch).ok()?;
        first
    }
}

fn find<'n>(graph: &Graph<'_>, names: impl Iterator<Item = &'n String>) -> Result<Vec<ValueId>, EvaluationError> {
    let missing = |name: &String| EvaluationError::Missing { value: name.clone() };
    names.map(|name| graph.find(name).ok_or_else(|| missing(name))).collect()
}

/// The largest difference, as a part of the largest magnitude, and the same of the norms.
fn difference(before: &Array, after: &Array) -> (f64, f64) {
    if before.dims != after.dims {
        return (f64::INFINITY, f64::INFINITY);
    }
    let pairs = || before.data.iter().zip(&after.data);
    let largest = before.data.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
    let error = pairs().fold(0.0_f64, |most, (before, after)| {
        let error = (before - after).abs();
        if error.is_nan() { f64::INFINITY } else { most.max(error) }
    });
    let square: f64 = before.data.iter().map(|value| value * value).sum();
    let error_square: f64 = pairs().map(|(before, after)| (before - after).powi(2)).sum();
    let part = |error: f64, of: f64| if error == 0.0 { 0.0 } else { error / of };
    (part(error, largest), part(error_square.sqrt(), square.sqrt()))
}

fn largest(values: &[f64]) -> Option<usize> {
    (0..values.len()).max_by(|&left, &right| values[left].total_cmp(&values[right]))
}

/// Numbers between -1 and 1.
fn random_array(random: &mut Random, dims: Vec<usize>) -> Option<Array> {
    let zeros = Array::zeros(dims)?;
    Some(Array { data: zeros.data.iter().map(|_| 2.0 * random.next() - 1.0).collect(), ..zeros })
}
