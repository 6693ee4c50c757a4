//! The folded model's file: what was not changed is copied, byte for byte, and the rest is set in between.

use std::{
    io::{self, Write},
    ops::Range,
};

use rayon::prelude::*;

use super::{
    file::Model,
    graph::Part,
    node::{NodeId, ValueId},
    pass::{Contents, Decided, Payload},
    shapes::stated_type,
    tensor::{ElementType, TensorHeader, is_data_field},
    wire::{self, Field, Fields},
};
use crate::{element::DType, fold::models::ModelError};

/// Folded bytes that a thread computes at a time; they should stay in its cache until they are written.
const CHUNK: usize = 256 << 10;
/// Chunks between two writes.
const BATCH: usize = 8;
/// A batch that is being written, and one that is being computed.
type Buffers = [[Vec<u8>; BATCH]; 2];

/// Where data begins in an external file, so that it can be mapped.
const ALIGNMENT: u64 = 4096;

/// A stretch of the file.
enum Piece<'p> {
    Copied(&'p [u8]),
    New(Vec<u8>),
    /// The folded weight of a layer.
    Weight(NodeId, DType, usize),
    /// An initializer of the file in another type.
    Converted(ValueId, DType, usize),
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Copied(bytes) => bytes.len(),
            Self::New(bytes) => bytes.len(),
            Self::Weight(_, _, len) | Self::Converted(_, _, len) => *len,
        }
    }
}

/// A file that is ready to be written.
pub(super) struct Splice<'p> {
    decided: &'p Decided<'p>,
    pieces: Vec<Piece<'p>>,
    /// The pieces of the file of external data, if there is to be one, each with its place.
    external: Vec<(u64, Piece<'p>)>,
}

/// Puts the pieces of a folded model together.
struct Joiner<'p> {
    decided: &'p Decided<'p>,
    /// What the file of external data will be called, from the model.
    location: Option<&'p str>,
    pieces: Vec<Piece<'p>>,
    external: Vec<(u64, Piece<'p>)>,
    external_len: u64,
}

impl<'p> Splice<'p> {
    /// `location` is what a file for data that was external is to be called; without one it is put into the model.
    pub(super) fn new(
        model: &'p Model,
        decided: &'p Decided<'p>,
        location: Option<&'p str>,
    ) -> Result<Self, ModelError> {
        if decided.is_empty() {
            return Ok(Self { decided, pieces: vec![Piece::Copied(model.bytes())], external: Vec::new() });
        }
        let mut joiner = Joiner { decided, location, pieces: Vec::new(), external: Vec::new(), external_len: 0 };
        joiner.graph()?;
        let graph = std::mem::take(&mut joiner.pieces);
        let mut pieces = Vec::new();
        let mut rest = Some(graph);
        for field in Fields::of(model.bytes()) {
            let Field { number, raw, .. } = field?;
            match rest.take_if(|_| number == 7) {
                Some(graph) => {
                    let mut header = Vec::new();
                    wire::put_header(&mut header, 7, graph.iter().map(Piece::len).sum());
                    pieces.push(Piece::New(header));
                    pieces.extend(graph);
                }
                None => pieces.push(Piece::Copied(raw)),
            }
        }
        Ok(Self { decided, pieces, external: joiner.external })
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    pub(super) const fn has_external(&self) -> bool {
        !self.external.is_empty()
    }

    pub(super) fn write(&self, to: &mut (impl Write + Send), wrote: &dyn Fn(usize)) -> io::Result<()> {
        let mut buffers = Buffers::default();
        self.pieces.iter().try_for_each(|piece| self.write_piece(piece, to, wrote, &mut buffers))
    }

    pub(super) fn write_external(&self, to: &mut (impl Write + Send), wrote: &dyn Fn(usize)) -> io::Result<()> {
        let mut buffers = Buffers::default();
        let mut at = 0;
        for (start, piece) in &self.external {
            to.write_all(&vec![0; usize::try_from(start - at).unwrap_or(0)])?;
            self.write_piece(piece, to, wrote, &mut buffers)?;
            at = start + piece.len() as u64;
        }
        Ok(())
    }

    fn write_piece(
        &self,
        piece: &Piece<'_>,
        to: &mut (impl Write + Send),
        wrote: &dyn Fn(usize),
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        match piece {
            Piece::Copied(bytes) => to.write_all(bytes)?,
            Piece::New(bytes) => to.write_all(bytes)?,
            Piece::Weight(layer, dtype, _) => self.write_weight(*layer, *dtype, to, buffers)?,
            Piece::Converted(value, dtype, _) => self.write_converted(*value, *dtype, to, &mut buffers[0][0])?,
        }
        wrote(piece.len());
        Ok(())
    }

    fn write_weight(
        &self,
        layer: NodeId,
        dtype: DType,
        to: &mut (impl Write + Send),
        buffers: &mut Buffers,
    ) -> io::Result<()> {
        let pass = &self.decided.pass;
        let Some(linear) = pass.layers.get(&layer) else { return Ok(()) };
        // Both have succeeded when the pass surveyed the layer.
        let after = linear.whole_after().map_err(io::Error::other)?;
        let absorption = linear.absorption(after.as_ref()).map_err(io::Error::other)?;
        let step = (CHUNK / (absorption.row_len() * dtype.size())).max(1);
        let rows: Vec<_> =
            (0..absorption.rows()).step_by(step).map(|row| row..absorption.rows().min(row + step)).collect();
        let compute = |some: &[Range<usize>], into: &mut [Vec<u8>]| {
            let chunks = some.par_iter().zip(into.par_iter_mut());
            chunks.for_each(|(rows, bytes)| absorption.put_rows(rows.clone(), dtype, bytes));
        };
        // While one batch is written the next is computed.
        let mut ready = 0;
        for some in rows.chunks(BATCH).chain([&[][..]]) {
            let [written, next] = &mut *buffers;
            let (done, ()) = rayon::join(
                || written[..ready].iter().try_for_each(|bytes| to.write_all(bytes)),
                || compute(some, next),
            );
            done?;
            ready = some.len();
            buffers.swap(0, 1);
            if let (Some(first), Some(last)) = (some.first(), some.last()) {
                let row_len = absorption.row_len();
                linear.forget(pass.graph.externals, first.start * row_len..last.end * row_len);
            }
        }
        Ok(())
    }
}

impl Splice<'_> {
    /// The elements of an initializer, each rounded once.
    fn write_converted(
        &self,
        value: ValueId,
        dtype: DType,
        to: &mut impl Write,
        bytes: &mut Vec<u8>,
    ) -> io::Result<()> {
        let graph = &self.decided.pass.graph;
        let Some(tensor) = graph.initializer(value) else { return Ok(()) };
        let Some(values) = tensor.values() else { return Ok(()) };
        let size = tensor.element.size().unwrap_or(1);
        for start in (0..tensor.len()).step_by(CHUNK) {
            let range = start..tensor.len().min(start + CHUNK);
            values.put_as(range.clone(), dtype, bytes);
            to.write_all(bytes)?;
            graph.externals.forget(&tensor.data[range.start * size..range.end * size]);
        }
        Ok(())
    }
}

impl<'p> Joiner<'p> {
    /// The fields of the graph.
    fn graph(&mut self) -> Result<(), ModelError> {
        let (graph, edits) = (&self.decided.pass.graph, &self.decided.edits);
        let mut leading = Some(graph.added_behind(None));
        for &(part, raw) in &graph.parts {
            match part {
                Part::Node(id) => {
                    leading.take().into_iter().flatten().try_for_each(|added| self.node(added))?;
                    let node = graph.node(id);
                    if !node.is_removed {
                        if node.is_changed { self.node(id)? } else { self.pieces.push(Piece::Copied(raw)) }
                    }
                    graph.added_behind(Some(id)).try_for_each(|added| self.node(added))?;
                }
                Part::Initializer(value) if edits.dropped.contains(&value) => {}
                Part::Initializer(value) => match edits.replaced.get(&value) {
                    Some(payload) => self.tensor(value, payload)?,
                    None => self.pieces.push(Piece::Copied(raw)),
                },
                // What nobody may replace any more is no input either.
                Part::Input(value)
                    if edits.dropped.contains(&value)
                        || graph.ir_version >= 4 && edits.replaced.contains_key(&value) => {}
                Part::ValueInfo(value) if self.has_vanished(value) => {}
                Part::Input(value) | Part::ValueInfo(value) if self.new_type(value).is_some() => {
                    self.retyped(value, raw)?;
                }
                Part::Input(_) | Part::ValueInfo(_) | Part::Other => self.pieces.push(Piece::Copied(raw)),
            }
        }
        for (value, payload) in &edits.added {
            self.tensor(*value, payload)?;
            if graph.ir_version < 4 {
                self.input(*value, payload);
            }
        }
        Ok(())
    }

    /// Whether a node made the value, and none does any more.
    fn has_vanished(&self, value: ValueId) -> bool {
        let value = self.decided.pass.graph.value(value);
        value.was_made && value.producer.is_none()
    }

    /// The element type of a value that the file states otherwise.
    fn new_type(&self, value: ValueId) -> Option<ElementType> {
        let edits = &self.decided.edits;
        let stored = edits.replaced.get(&value).map(|payload| payload.element);
        let stated = self.decided.pass.graph.value(value).value_info?;
        let new = edits.retyped.get(&value).copied().or(stored)?;
        stated_type(stated).ok().flatten().is_some_and(|(element, _)| element != new).then_some(new)
    }

    /// A field that describes a value, with the value's new type.
    fn retyped(&mut self, value: ValueId, raw: &'p [u8]) -> Result<(), ModelError> {
        let Some(element) = self.new_type(value) else { return Ok(()) };
        for field in Fields::of(raw) {
            let Field { number, value, .. } = field?;
            let info = with_field(value.bytes()?, 2, &|of_type| {
                with_field(of_type, 1, &|tensor| with_element(tensor, element))
            })?;
            let mut field = Vec::new();
            wire::put_bytes(&mut field, number, &info);
            self.pieces.push(Piece::New(field));
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> Result<(), ModelError> {
        let graph = &self.decided.pass.graph;
        let message = graph.node(id).encode(|value| &graph.value(value).name)?;
        let mut field = Vec::new();
        wire::put_bytes(&mut field, 1, &message);
        self.pieces.push(Piece::New(field));
        Ok(())
    }

    /// An initializer with new elements, of which all else is as it was.
    fn tensor(&mut self, value: ValueId, payload: &'p Payload) -> Result<(), ModelError> {
        let of = self.decided.pass.graph.value(value);
        let mut head = Vec::new();
        for &dim in &payload.dims {
            wire::put_int(&mut head, 1, dim as i64);
        }
        wire::put_int(&mut head, 2, payload.element.code());
        let mut was_external = false;
        match of.initializer {
            Some(message) => {
                was_external = TensorHeader::read(message)?.external().is_some();
                for field in Fields::of(message) {
                    let Field { number, raw, .. } = field?;
                    if !matches!(number, 1 | 2) && !is_data_field(number) {
                        head.extend_from_slice(raw);
                    }
                }
            }
            None => wire::put_bytes(&mut head, 8, of.name.as_bytes()),
        }
        let len = payload.dims.iter().product::<usize>() * payload.element.size().unwrap_or(0);
        let data = match (&payload.contents, payload.element.dtype()) {
            (Contents::Bytes(bytes), _) => Piece::Copied(bytes),
            (Contents::Weight(layer), Some(dtype)) => Piece::Weight(*layer, dtype, len),
            (Contents::Converted(value), Some(dtype)) => Piece::Converted(*value, dtype, len),
            (Contents::Weight(_) | Contents::Converted(_), None) => {
                return Err(ModelError::unsupported(format!("{} is stored as {}", of.name, payload.element.name())));
            }
        };
        let mut field = Vec::new();
        match self.location.filter(|_| was_external) {
            Some(location) => {
                let offset = self.external_len.next_multiple_of(ALIGNMENT);
                put_external(&mut head, location, offset, len);
                wire::put_bytes(&mut field, 5, &head);
                self.pieces.push(Piece::New(field));
                self.external_len = offset + len as u64;
                self.external.push((offset, data));
            }
            None => {
                wire::put_header(&mut head, 9, len);
                wire::put_header(&mut field, 5, head.len() + len);
                field.extend(head);
                self.pieces.extend([Piece::New(field), data]);
            }
        }
        Ok(())
    }

    /// Before IR version 4 every initializer was an input too.
    fn input(&mut self, value: ValueId, payload: &Payload) {
        let name = &self.decided.pass.graph.value(value).name;
        self.pieces.push(Piece::New(input_of(name, payload.element, &payload.dims)));
    }
}

/// A message with one of its fields, a message too, edited.
fn with_field<'m>(
    message: &'m [u8],
    wanted: u64,
    edit: &dyn Fn(&'m [u8]) -> Result<Vec<u8>, ModelError>,
) -> Result<Vec<u8>, ModelError> {
    let mut edited = Vec::new();
    for field in Fields::of(message) {
        let Field { number, value, raw } = field?;
        if number == wanted {
            wire::put_bytes(&mut edited, number, &edit(value.bytes()?)?);
        } else {
            edited.extend_from_slice(raw);
        }
    }
    Ok(edited)
}

/// A `TypeProto.Tensor` of another element type.
fn with_element(message: &[u8], element: ElementType) -> Result<Vec<u8>, ModelError> {
    let mut edited = Vec::new();
    wire::put_int(&mut edited, 1, element.code());
    for field in Fields::of(message) {
        let Field { number, raw, .. } = field?;
        if number != 1 {
            edited.extend_from_slice(raw);
        }
    }
    Ok(edited)
}

fn put_external(to: &mut Vec<u8>, location: &str, offset: u64, len: usize) {
    for (key, text) in [("location", location.to_owned()), ("offset", offset.to_string()), ("length", len.to_string())]
    {
        let mut entry = Vec::new();
        wire::put_bytes(&mut entry, 1, key.as_bytes());
        wire::put_bytes(&mut entry, 2, text.as_bytes());
        wire::put_bytes(to, 13, &entry);
    }
    wire::put_int(to, 14, 1);
}

/// The field of `GraphProto` that makes a tensor an input.
fn input_of(name: &str, element: ElementType, dims: &[usize]) -> Vec<u8> {
    let nested = |number: u64, inner: &[u8]| {
        let mut outer = Vec::new();
        wire::put_bytes(&mut outer, number, inner);
        outer
    };
    let mut shape = Vec::new();
    for &dim in dims {
        let mut length = Vec::new();
        wire::put_int(&mut length, 1, dim as i64);
        wire::put_bytes(&mut shape, 1, &length);
    }
    let mut tensor = Vec::new();
    wire::put_int(&mut tensor, 1, element.code());
    wire::put_bytes(&mut tensor, 2, &shape);
    let mut info = nested(1, name.as_bytes());
    info.extend(nested(2, &nested(1, &tensor)));
    nested(11, &info)
}
