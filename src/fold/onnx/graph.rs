//! A model's graph: who makes each value, and who reads it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
};

use super::{
    file::{Externals, Model},
    node::{Node, NodeId, ValueId},
    tensor::{Tensor, TensorHeader},
    wire::{Field, Fields},
};
use crate::fold::models::ModelError;

/// How deep graphs may lie in graphs.
pub(super) const DEEPEST: usize = 32;

/// A value of the graph: an input, an initializer, or what a node makes.
#[derive(Debug, Clone, Default)]
pub(super) struct Value<'m> {
    pub(super) name: Cow<'m, str>,
    /// The node that makes it, and which of its outputs it is.
    pub(super) producer: Option<(NodeId, usize)>,
    /// The nodes that read it, and as which input.
    pub(super) uses: Vec<(NodeId, usize)>,
    /// Its `TensorProto`, if it is an initializer.
    pub(super) initializer: Option<&'m [u8]>,
    pub(super) is_input: bool,
    pub(super) is_output: bool,
    /// Whether a graph within this one reads it, or an annotation names it.
    pub(super) is_captured: bool,
    /// The message of its type, from the inputs, outputs or `value_info`.
    pub(super) value_info: Option<&'m [u8]>,
    /// Whether a node of the file makes it.
    pub(super) was_made: bool,
}

/// What a field of the graph is, for the copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Node(NodeId),
    Initializer(ValueId),
    Input(ValueId),
    ValueInfo(ValueId),
    Other,
}

/// A `BatchNormalization` that is in no place where it could be folded.
#[derive(Debug, Clone)]
pub(super) struct Hidden {
    pub(super) name: String,
    pub(super) inside: String,
}

/// A tensor of integers.
#[derive(Debug, Clone)]
pub(super) struct Integers {
    pub(super) dims: Vec<usize>,
    pub(super) values: Vec<i64>,
}

/// The graph of a model.
#[derive(Debug)]
pub(super) struct Graph<'m> {
    pub(super) values: Vec<Value<'m>>,
    pub(super) nodes: Vec<Node<'m>>,
    pub(super) inputs: Vec<ValueId>,
    pub(super) outputs: Vec<ValueId>,
    /// The fields of `GraphProto`, in the order of the file.
    pub(super) parts: Vec<(Part, &'m [u8])>,
    pub(super) externals: &'m Externals,
    pub(super) hidden: Vec<Hidden>,
    /// Integers that nodes made until it was seen that they are known.
    pub(super) computed: BTreeMap<ValueId, Integers>,
    /// Nodes that are new, by the one of the file that they are to be written behind; `None` is before all of them.
    pub(super) added: BTreeMap<Option<NodeId>, Vec<NodeId>>,
    pub(super) opset: i64,
    pub(super) ir_version: i64,
    /// Whether initializers that are also inputs count as constants.
    pub(super) freezes_inputs: bool,
    names: HashMap<Cow<'m, str>, ValueId>,
    node_names: HashSet<String>,
    /// How many names like one have been tried.
    numbers: HashMap<String, usize>,
}

impl<'m> Graph<'m> {
    pub(super) fn read(model: &'m Model) -> Result<Self, ModelError> {
        let mut graph = Self {
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            parts: Vec::new(),
            externals: model.externals(),
            hidden: Vec::new(),
            computed: BTreeMap::new(),
            added: BTreeMap::new(),
            opset: 0,
            ir_version: 0,
            freezes_inputs: false,
            names: HashMap::new(),
            node_names: HashSet::new(),
            numbers: HashMap::new(),
        };
        let mut bodies = Vec::new();
        for field in Fields::of(model.bytes()) {
            let Field { number, value, .. } = field?;
            match number {
                1 => graph.ir_version = value.int()?,
                7 => bodies.push(value.bytes()?),
                8 => graph.read_opset(value.bytes()?)?,
                25 => graph.read_function(value.bytes()?)?,
                _ => {}
            }
        }
        let [body] = bodies[..] else {
            return Err(ModelError::malformed(format!("it has {} graphs, and not one", bodies.len())));
        };
        if graph.opset == 0 {
            return Err(ModelError::malformed("it does not say which version of the standard's operators it uses"));
        }
        graph.read_graph(body)?;
        Ok(graph)
    }

    fn read_opset(&mut self, message: &'m [u8]) -> Result<(), ModelError> {
        let (mut domain, mut version) = ("", 0);
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            match number {
                1 => domain = value.text()?,
                2 => version = value.int()?,
                _ => {}
            }
        }
        if matches!(domain, "" | "ai.onnx") {
            self.opset = version;
        }
        Ok(())
    }

    /// A function's body is nobody's business but what is in it should be known.
    fn read_function(&mut self, message: &'m [u8]) -> Result<(), ModelError> {
        let mut name = "";
        let mut nodes = Vec::new();
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            match number {
                1 => name = value.text()?,
                7 => nodes.push(value.bytes()?),
                _ => {}
            }
        }
        for node in nodes {
            let node = Node::read(node, |_| ValueId(0))?;
            self.hide(&node, &format!("the function {name}"));
        }
        Ok(())
    }

    fn hide(&mut self, node: &Node<'_>, inside: &str) {
        if node.is(&["BatchNormalization"]) {
            self.hidden.push(Hidden { name: node.name().to_owned(), inside: inside.to_owned() });
        }
    }

    fn read_graph(&mut self, body: &'m [u8]) -> Result<(), ModelError> {
        for field in Fields::of(body) {
            let Field { number, value, raw } = field?;
            let part = match number {
                1 => self.read_node(value.bytes()?)?,
                5 => self.read_initializer(value.bytes()?)?,
                11 => {
                    let id = self.read_value_info(value.bytes()?)?;
                    self.values[id.0].is_input = true;
                    self.inputs.push(id);
                    Part::Input(id)
                }
                12 => {
                    let id = self.read_value_info(value.bytes()?)?;
                    self.values[id.0].is_output = true;
                    self.outputs.push(id);
                    Part::Other
                }
                13 => Part::ValueInfo(self.read_value_info(value.bytes()?)?),
                14 => {
                    self.capture_field(value.bytes()?, 1)?;
                    Part::Other
                }
                _ => Part::Other,
            };
            self.parts.push((part, raw));
        }
        self.check()
    }

    /// That every value is made once.
    fn check(&self) -> Result<(), ModelError> {
        for (id, node) in self.nodes.iter().enumerate() {
            for (index, output) in node.outputs.iter().enumerate() {
                let Some(output) = output else { continue };
                let value = self.value(*output);
                if value.producer != Some((NodeId(id), index)) || value.initializer.is_some() || value.is_input {
                    return Err(ModelError::malformed(format!("the value {} is made twice", value.name)));
                }
            }
        }
        Ok(())
    }

    fn read_node(&mut self, message: &'m [u8]) -> Result<Part, ModelError> {
        let id = NodeId(self.nodes.len());
        let node = Node::read(message, |name| self.intern(name))?;
        self.link(id, &node);
        for output in node.outputs.iter().flatten() {
            self.values[output.0].was_made = true;
        }
        for subgraph in node.subgraphs() {
            self.read_subgraph(subgraph, node.name(), 0)?;
        }
        self.node_names.insert(node.name().to_owned());
        self.nodes.push(node);
        Ok(Part::Node(id))
    }

    /// A graph within this one may read any value of it.
    fn read_subgraph(&mut self, body: &'m [u8], inside: &str, depth: usize) -> Result<(), ModelError> {
        if depth == DEEPEST {
            return Err(ModelError::unsupported("its graphs lie too deep in each other"));
        }
        for field in Fields::of(body) {
            let Field { number, value, .. } = field?;
            match number {
                1 => {
                    let mut read = Vec::new();
                    let node = Node::read(value.bytes()?, |name| {
                        read.push(name);
                        ValueId(0)
                    })?;
                    for name in read {
                        self.capture(name);
                    }
                    self.hide(&node, &format!("a graph within {inside}"));
                    for subgraph in node.subgraphs() {
                        self.read_subgraph(subgraph, inside, depth + 1)?;
                    }
                }
                12 => self.capture_field(value.bytes()?, 1)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Captures the value whose name is that field of a message.
    fn capture_field(&mut self, message: &'m [u8], name_field: u64) -> Result<(), ModelError> {
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            if number == name_field {
                self.capture(value.text()?);
            }
        }
        Ok(())
    }

    fn capture(&mut self, name: &'m str) {
        let id = self.intern(name);
        self.values[id.0].is_captured = true;
    }

    fn read_initializer(&mut self, message: &'m [u8]) -> Result<Part, ModelError> {
        let name = TensorHeader::read(message)?.name;
        let id = self.intern(name);
        if self.values[id.0].initializer.replace(message).is_some() {
            return Err(ModelError::malformed(format!("the initializer {name} is there twice")));
        }
        Ok(Part::Initializer(id))
    }

    fn read_value_info(&mut self, message: &'m [u8]) -> Result<ValueId, ModelError> {
        let mut id = None;
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            if number == 1 {
                id = Some(self.intern(value.text()?));
            }
        }
        let id = id.ok_or_else(|| ModelError::malformed("a value has no name"))?;
        self.values[id.0].value_info = Some(message);
        Ok(id)
    }

    fn intern(&mut self, name: &'m str) -> ValueId {
        *self.names.entry(Cow::Borrowed(name)).or_insert_with(|| {
            self.values.push(Value { name: Cow::Borrowed(name), ..Value::default() });
            ValueId(self.values.len() - 1)
        })
    }

    /// A new value, by this name if it is free and else by one like it.
    pub(super) fn new_value(&mut self, wish: &str) -> ValueId {
        let mut name = wish.to_owned();
        while self.names.contains_key(name.as_str()) {
            let number = self.numbers.entry(wish.to_owned()).or_default();
            *number += 1;
            name = format!("{wish}_{number}");
        }
        let id = ValueId(self.values.len());
        self.values.push(Value { name: Cow::Owned(name.clone()), ..Value::default() });
        self.names.insert(Cow::Owned(name), id);
        id
    }

    /// A name for a new node, this one if it is free and else one like it: ONNX Runtime refuses two nodes of one name.
    pub(super) fn free_node_name(&self, wish: &str) -> String {
        let mut name = wish.to_owned();
        for number in 1.. {
            if !self.node_names.contains(name.as_str()) {
                break;
            }
            name = format!("{wish}_{number}");
        }
        name
    }

    pub(super) fn value(&self, id: ValueId) -> &Value<'m> {
        &self.values[id.0]
    }

    pub(super) fn node(&self, id: NodeId) -> &Node<'m> {
        &self.nodes[id.0]
    }

    pub(super) fn find(&self, name: &str) -> Option<ValueId> {
        self.names.get(name).copied()
    }

    /// The tensor of an initializer, whoever else may replace it.
    pub(super) fn initializer(&self, value: ValueId) -> Option<Tensor<'m>> {
        Tensor::read(self.value(value).initializer?, self.externals).ok()
    }

    pub(super) fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.nodes.len()).map(NodeId)
    }

    /// The node that makes a value.
    pub(super) fn producer(&self, value: ValueId) -> Option<NodeId> {
        self.value(value).producer.map(|(node, _)| node)
    }

    /// What to call a node.
    pub(super) fn label(&self, id: NodeId) -> String {
        self.node(id).label().to_owned()
    }

    pub(super) fn set_input(&mut self, id: NodeId, slot: usize, value: Option<ValueId>) {
        let inputs = &mut self.nodes[id.0].inputs;
        inputs.resize(inputs.len().max(slot + 1), None);
        let before = std::mem::replace(&mut inputs[slot], value);
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        self.nodes[id.0].is_changed = true;
        if let Some(before) = before {
            self.values[before.0].uses.retain(|&used| used != (id, slot));
        }
        if let Some(value) = value {
            self.values[value.0].uses.push((id, slot));
        }
    }

    pub(super) fn set_output(&mut self, id: NodeId, slot: usize, value: ValueId) {
        if let Some(before) = self.nodes[id.0].outputs[slot].replace(value) {
            self.values[before.0].producer = None;
        }
        self.values[value.0].producer = Some((id, slot));
        self.nodes[id.0].is_changed = true;
    }

    /// Removes a node; its outputs are then made by nobody.
    pub(super) fn remove(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        node.is_removed = true;
        for output in node.outputs.iter().flatten() {
            self.values[output.0].producer = None;
        }
        for (slot, input) in node.inputs.iter().enumerate() {
            if let Some(input) = input {
                self.values[input.0].uses.retain(|&used| used != (id, slot));
            }
        }
    }

    /// Removes a node that makes one value of another, which is then made by whoever made the other. Nobody else may read
    /// the other.
    pub(super) fn remove_behind(&mut self, id: NodeId, data: ValueId, output: ValueId) {
        self.remove(id);
        if let Some((producer, slot)) = self.value(data).producer {
            self.set_output(producer, slot, output);
        }
    }

    /// Removes a node that makes one value of another; who read the one reads the other.
    pub(super) fn remove_before(&mut self, id: NodeId, data: ValueId, output: ValueId) {
        self.remove(id);
        for (user, slot) in self.value(output).uses.clone() {
            self.set_input(user, slot, Some(data));
        }
    }

    /// Adds a node to be written right behind another, or before all of them.
    pub(super) fn add_node_behind(&mut self, behind: Option<NodeId>, node: Node<'m>) -> NodeId {
        let id = NodeId(self.nodes.len());
        self.link(id, &node);
        self.node_names.insert(node.name().to_owned());
        self.nodes.push(node);
        let after = |list: &[NodeId]| list.iter().position(|&added| Some(added) == behind);
        match self.added.values_mut().find_map(|list| after(list).map(|index| (list, index + 1))) {
            Some((list, index)) => list.insert(index, id),
            // Others that are behind the same one may need what this makes.
            None => self.added.entry(behind).or_default().insert(0, id),
        }
        id
    }

    /// The new nodes that are to be written behind one of the file, or before all of them.
    pub(super) fn added_behind(&self, id: Option<NodeId>) -> impl Iterator<Item = NodeId> {
        let added = self.added.get(&id).map_or(&[][..], Vec::as_slice);
        added.iter().copied().filter(|&id| !self.node(id).is_removed)
    }

    /// The nodes as they are to be written.
    pub(super) fn order(&self) -> Vec<NodeId> {
        let behind = |id| self.added_behind(id);
        let given = self.parts.iter().filter_map(|&(part, _)| match part {
            Part::Node(id) => Some(id),
            _ => None,
        });
        let all = behind(None).chain(given.flat_map(|id| [id].into_iter().chain(behind(Some(id)))));
        all.filter(|&id| !self.node(id).is_removed).collect()
    }

    /// Tells the values that a node reads and makes them.
    fn link(&mut self, id: NodeId, node: &Node<'m>) {
        for (slot, input) in node.inputs.iter().enumerate() {
            if let Some(input) = input {
                self.values[input.0].uses.push((id, slot));
            }
        }
        for (slot, output) in node.outputs.iter().enumerate() {
            if let Some(output) = output {
                self.values[output.0].producer = Some((id, slot));
            }
        }
    }

    /// Adds a copy of a node, with another output.
    pub(super) fn copy_behind(&mut self, id: NodeId, output: ValueId) -> NodeId {
        let mut copy = self.node(id).clone();
        copy.outputs = vec![Some(output)];
        copy.rename(&self.free_node_name(&self.value(output).name));
        self.add_node_behind(Some(id), copy)
    }

    /// Adds a node with two inputs that makes what another made until now.
    pub(super) fn insert_behind(&mut self, id: NodeId, op: &'static str, constant: ValueId) -> Option<NodeId> {
        let output = self.node(id).output()?;
        let data = self.new_value(&format!("{}_unbiased", self.value(output).name));
        self.set_output(id, 0, data);
        let mut node = Node::new(op, vec![Some(data), Some(constant)], output);
        node.rename(&self.free_node_name(&self.value(output).name));
        node.mark_as_left();
        Some(self.add_node_behind(Some(id), node))
    }

    /// Whether nothing of the model needs the value.
    pub(super) fn is_unused(&self, value: ValueId) -> bool {
        let value = self.value(value);
        value.uses.is_empty() && !value.is_output && !value.is_captured
    }
}
