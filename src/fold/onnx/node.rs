//! `NodeProto` and its attributes, and what is changed of them.

use std::{borrow::Cow, collections::BTreeMap};

use super::wire::{self, Field, Fields};
use crate::fold::models::ModelError;

/// A value's number in [`Graph`](super::graph::Graph).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ValueId(pub(super) usize);

/// A node's number in [`Graph`](super::graph::Graph).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(pub(super) usize);

/// An `AttributeProto`.
#[derive(Debug, Clone, Default)]
pub(super) struct Attribute<'m> {
    pub(super) name: &'m str,
    pub(super) f: Option<f32>,
    pub(super) i: Option<i64>,
    pub(super) s: Option<&'m str>,
    pub(super) tensor: Option<&'m [u8]>,
    pub(super) ints: Vec<i64>,
    pub(super) floats: Vec<u8>,
    pub(super) graphs: Vec<&'m [u8]>,
}

impl<'m> Attribute<'m> {
    fn read(message: &'m [u8]) -> Result<Self, ModelError> {
        let mut attribute = Self::default();
        for field in Fields::of(message) {
            let Field { number, value, .. } = field?;
            match number {
                1 => attribute.name = value.text()?,
                2 => attribute.f = Some(value.float()?),
                3 => attribute.i = Some(value.int()?),
                // Any bytes are allowed, but what is asked for here is text.
                4 => attribute.s = std::str::from_utf8(value.bytes()?).ok(),
                5 => attribute.tensor = Some(value.bytes()?),
                6 | 11 => attribute.graphs.push(value.bytes()?),
                7 => value.fixed::<4>(&mut attribute.floats)?,
                8 => value.ints(&mut attribute.ints)?,
                _ => {}
            }
        }
        Ok(attribute)
    }
}

/// The `doc_string` of an addition that a fold has left.
const LEFT: &str = "left by warpnorm fold";

/// What an attribute is set to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    Int(i64),
    Absent,
}

/// A node: as it is in the file, and as it is to be.
#[derive(Debug, Clone)]
pub(super) struct Node<'m> {
    pub(super) op: &'m str,
    given_op: &'m str,
    pub(super) domain: &'m str,
    name: Cow<'m, str>,
    /// The name of its first output in the file.
    given_output: &'m str,
    pub(super) inputs: Vec<Option<ValueId>>,
    pub(super) outputs: Vec<Option<ValueId>>,
    attributes: Vec<Attribute<'m>>,
    body: &'m [u8],
    settings: BTreeMap<&'static str, Setting>,
    /// A new `doc_string`.
    mark: Option<&'static str>,
    is_left: bool,
    pub(super) is_changed: bool,
    pub(super) is_removed: bool,
}

impl<'m> Node<'m> {
    const fn empty(body: &'m [u8]) -> Self {
        Self {
            op: "",
            given_op: "",
            domain: "",
            mark: None,
            is_left: false,
            name: Cow::Borrowed(""),
            given_output: "",
            inputs: Vec::new(),
            outputs: Vec::new(),
            attributes: Vec::new(),
            body,
            settings: BTreeMap::new(),
            is_changed: false,
            is_removed: false,
        }
    }

    /// `intern` numbers the names of values.
    pub(super) fn read(message: &'m [u8], mut intern: impl FnMut(&'m str) -> ValueId) -> Result<Self, ModelError> {
        let mut node = Self::empty(message);
        // An optional input or output that is not there may have the empty name.
        let mut value = |name: &'m str| (!name.is_empty()).then(|| intern(name));
        for field in Fields::of(message) {
            let field = field?;
            match field.number {
                1 => node.inputs.push(value(field.value.text()?)),
                2 => {
                    let name = field.value.text()?;
                    if node.given_output.is_empty() {
                        node.given_output = name;
                    }
                    node.outputs.push(value(name));
                }
                3 => node.name = Cow::Borrowed(field.value.text()?),
                4 => node.op = field.value.text()?,
                5 => node.attributes.push(Attribute::read(field.value.bytes()?)?),
                6 => node.is_left = field.value.bytes()? == LEFT.as_bytes(),
                7 => node.domain = field.value.text()?,
                _ => {}
            }
        }
        node.given_op = node.op;
        Ok(node)
    }

    /// Says of an addition that it is what a fold has left, and so that none is to move it any further.
    pub(super) fn mark_as_left(&mut self) {
        self.mark = Some(LEFT);
        self.is_changed = true;
    }

    pub(super) const fn is_left(&self) -> bool {
        self.is_left
    }

    /// The operator that it is in the file.
    pub(super) const fn given_op(&self) -> &'m str {
        self.given_op
    }

    /// A node that is not in the file.
    pub(super) fn new(op: &'static str, inputs: Vec<Option<ValueId>>, output: ValueId) -> Self {
        Self { op, inputs, outputs: vec![Some(output)], is_changed: true, ..Self::empty(&[]) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What to call it: by its name, or else by the output that it has in the file, whoever makes that now.
    pub(super) fn label(&self) -> &str {
        if self.name.is_empty() { self.given_output } else { &self.name }
    }

    pub(super) fn rename(&mut self, name: &str) {
        self.name = Cow::Owned(name.to_owned());
        self.is_changed = true;
    }

    /// Whether it is an operator of the standard, by any of these names.
    pub(super) fn is(&self, ops: &[&str]) -> bool {
        self.is_standard() && ops.contains(&self.op)
    }

    pub(super) fn is_standard(&self) -> bool {
        matches!(self.domain, "" | "ai.onnx")
    }

    pub(super) fn input(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    pub(super) fn output(&self) -> Option<ValueId> {
        self.outputs.first().copied().flatten()
    }

    /// Whether it has the first output and no others.
    pub(super) fn has_one_output(&self) -> bool {
        self.output().is_some() && self.outputs.iter().flatten().count() == 1
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&Attribute<'m>> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }

    pub(super) fn int(&self, name: &str, default: i64) -> i64 {
        match self.settings.get(name) {
            Some(&Setting::Int(value)) => value,
            Some(_) => default,
            None => self.attribute(name).and_then(|attribute| attribute.i).unwrap_or(default),
        }
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        match self.settings.get(name) {
            Some(_) => default,
            None => self.attribute(name).and_then(|attribute| attribute.f).unwrap_or(default),
        }
    }

    pub(super) fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|attribute| &attribute.ints[..])
    }

    pub(super) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let floats = &self.attribute(name)?.floats;
        Some(floats.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    pub(super) fn text(&self, name: &str) -> Option<&'m str> {
        self.attribute(name)?.s
    }

    pub(super) fn subgraphs(&self) -> impl Iterator<Item = &'m [u8]> + '_ {
        self.attributes.iter().flat_map(|attribute| attribute.graphs.iter().copied())
    }

    pub(super) fn set(&mut self, name: &'static str, setting: Setting) {
        self.settings.insert(name, setting);
        self.is_changed = true;
    }

    /// Makes it another operator of the standard, without attributes but those that are set afterwards.
    pub(super) fn become_op(&mut self, op: &'static str) {
        self.op = op;
        self.attributes.clear();
        self.settings.clear();
        self.is_changed = true;
    }

    /// The node as a message: what was changed anew, and the rest as it was.
    pub(super) fn encode<'n>(&self, name_of: impl Fn(ValueId) -> &'n str) -> Result<Vec<u8>, ModelError> {
        let mut message = Vec::with_capacity(self.body.len() + 64);
        for (number, values) in [(1, &self.inputs), (2, &self.outputs)] {
            for value in values {
                wire::put_bytes(&mut message, number, value.map_or("", &name_of).as_bytes());
            }
        }
        for (number, text) in [(3, &*self.name), (4, self.op), (6, self.mark.unwrap_or_default())] {
            if !text.is_empty() {
                wire::put_bytes(&mut message, number, text.as_bytes());
            }
        }
        for field in Fields::of(self.body) {
            let field = field?;
            match field.number {
                1..=4 => {}
                6 if self.mark.is_some() => {}
                5 => {
                    let name = Attribute::read(field.value.bytes()?)?.name;
                    if self.attribute(name).is_some() && !self.settings.contains_key(name) {
                        message.extend_from_slice(field.raw);
                    }
                }
                _ => message.extend_from_slice(field.raw),
            }
        }
        for (name, setting) in &self.settings {
            let mut attribute = Vec::new();
            wire::put_bytes(&mut attribute, 1, name.as_bytes());
            match *setting {
                Setting::Int(value) => {
                    wire::put_int(&mut attribute, 3, value);
                    wire::put_int(&mut attribute, 20, 2);
                }
                Setting::Absent => continue,
            }
            wire::put_bytes(&mut message, 5, &attribute);
        }
        Ok(message)
    }
}
