//! The decision how to fold a model, and the folded model.

use std::{fs, io, path::Path};

use super::{
    file::Model,
    node::NodeId,
    options::Options,
    pass::{Decided, Fate, Found, Pass},
    shapes::stated_type,
    splice::Splice,
};
use crate::fold::models::{ModelError, Report, Row, SetAside, Summary, Unfinished, Verdict, are_same};
use crate::fold::{Layer, Refusal, RoundingReport};

/// The decision how to fold a model. The weights are computed when the folded model is written.
#[derive(Debug)]
pub struct Plan<'m> {
    model: &'m Model,
    decided: Decided<'m>,
    report: Report,
}

impl Decided<'_> {
    /// Whether the model stays as it is.
    pub(super) fn is_empty(&self) -> bool {
        let is_changed = |id: &NodeId| self.pass.graph.node(*id).is_changed || self.pass.graph.node(*id).is_removed;
        self.edits.replaced.is_empty()
            && self.edits.added.is_empty()
            && !self.pass.graph.node_ids().any(|id| is_changed(&id))
    }
}

impl<'m> Plan<'m> {
    /// Decides what is folded.
    ///
    /// # Errors
    ///
    /// [`ModelError`] where the model is not valid. What cannot be folded is no error but a row of the report.
    pub fn new(model: &'m Model, options: &Options) -> Result<Self, ModelError> {
        let decided = Decided::of(model, options)?;
        let mut report = report_of(&decided);
        report.summary.file_before = model.bytes().len() as u64;
        report.summary.file_after = Splice::new(model, &decided, Some(""))?.len() as u64;
        Ok(Self { model, decided, report })
    }

    pub(super) const fn model(&self) -> &'m Model {
        self.model
    }

    pub(super) const fn pass(&self) -> &Pass<'m> {
        &self.decided.pass
    }

    /// What is folded, and why the rest is not.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// The folded model in memory, with all its changed tensors in it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`] where there is no memory for it.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ModelError> {
        let splice = Splice::new(self.model, &self.decided, None)?;
        let mut bytes = Vec::new();
        splice.write(&mut bytes, &|_| ()).map_err(ModelError::io(""))?;
        Ok(bytes)
    }

    /// Writes the folded model.
    ///
    /// It is written under another name first, so that a file which is there already is either kept or replaced as a
    /// whole. Where the model has tensors in files of their own, the folded ones among them go to `<path>.data`, or to
    /// `<path>.1.data` and so on where the model has a file of that name, and in another folder the others' files are copied
    /// beside it.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`], also where tensors of the model are in a file of the name of `path`.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), ModelError> {
        self.save_if(path, &|_| (), |_| Ok(true)).map(|_| ())
    }

    /// As [`Plan::save`], where `accept` agrees to what has been written; else nothing is left of it. `wrote` is told of
    /// the bytes as they are written. Returns what `accept` did.
    ///
    /// # Errors
    ///
    /// [`ModelError::Io`], and those of `accept`.
    pub fn save_if(
        &self,
        path: impl AsRef<Path>,
        wrote: &dyn Fn(usize),
        accept: impl FnOnce(&Model) -> Result<bool, ModelError>,
    ) -> Result<bool, ModelError> {
        let path = path.as_ref();
        let name =
            path.file_name().ok_or_else(|| ModelError::unsupported(format!("{} names no file", path.display())))?;
        let name = name.to_string_lossy();
        let externals = self.model.externals();
        if externals.has(&name) {
            let what = "tensors of the model are in a file of this name";
            return Err(ModelError::io(path)(io::Error::new(io::ErrorKind::AlreadyExists, what)));
        }
        // Tensors that are not folded stay where they are, which may be the usual place.
        let numbered = (1..).map(|number| format!("{name}.{number}.data"));
        let mut names = std::iter::once(format!("{name}.data")).chain(numbered);
        let data_name = names.find(|name| !externals.has(name)).unwrap_or_default();
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        self.copy_externals(folder)?;
        let splice = Splice::new(self.model, &self.decided, Some(&data_name))?;
        let data = folder.join(&data_name);
        // That of an earlier fold is needed for as long as its model is.
        let before = if splice.has_external() { SetAside::of(&data)? } else { None };
        if splice.has_external() {
            Unfinished::write(&data, |to| splice.write_external(to, wrote))?.keep()?;
        }
        let written = Unfinished::write(path, |to| splice.write(to, wrote))?;
        let accepted = Model::open(&written.at).and_then(|folded| accept(&folded));
        if matches!(accepted, Ok(true)) {
            written.keep()?;
            before.into_iter().for_each(SetAside::give_up);
        } else if splice.has_external() {
            fs::remove_file(&data).map_err(ModelError::io(&data))?;
        }
        accepted
    }

    /// Copies the files of tensors that were not changed to the folder of the folded model, unless they are there. What is
    /// there by such a name and is another file stays.
    fn copy_externals(&self, folder: &Path) -> Result<(), ModelError> {
        let Some((from, locations)) = self.model.externals().files() else { return Ok(()) };
        let to = folder.canonicalize().map_err(ModelError::io(folder))?;
        if from == to {
            return Ok(());
        }
        for location in locations {
            let (source, target) = (from.join(location), to.join(location));
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(ModelError::io(parent))?;
            }
            if !target.exists() {
                Unfinished::copy(&source, &target)?.keep()?;
            } else if !are_same(&source, &target)? {
                let what = "it is there already and holds something else than the model's file of that name";
                return Err(ModelError::io(target)(io::Error::new(io::ErrorKind::AlreadyExists, what)));
            }
        }
        Ok(())
    }
}

fn report_of(decided: &Decided<'_>) -> Report {
    let pass = &decided.pass;
    let mut rows = Vec::new();
    for (&id, found) in &pass.found {
        if found.is_batch_norm || !matches!(found.fate, Fate::Refused(_)) {
            rows.push(row(decided, id, found));
        }
    }
    for hidden in &pass.graph.hidden {
        let refusal = Refusal::Inside { inside: hidden.inside.clone() };
        rows.push(Row {
            node: hidden.name.clone(),
            op: "BatchNormalization".to_owned(),
            kind: String::new(),
            channels: None,
            max_abs_scale: None,
            min_var_plus_eps: None,
            warnings: Vec::new(),
            weight: None,
            verdict: Verdict::Refused(refusal),
            bytes_per_image: None,
        });
    }
    let mut summary = Summary::of(&rows);
    let added: usize = pass.graph.added.values().map(Vec::len).sum();
    summary.nodes_before = pass.graph.nodes.len() - added;
    summary.nodes_after = pass.graph.nodes.iter().filter(|node| !node.is_removed).count();
    Report { rows, summary, conversion: decided.conversion.clone() }
}

fn row(decided: &Decided<'_>, id: NodeId, found: &Found) -> Row {
    let graph = &decided.pass.graph;
    let labels = |layers: &[NodeId]| layers.iter().map(|&layer| graph.label(layer)).collect();
    let (layers, verdict) = match &found.fate {
        Fate::Folded { layers, side } => (&layers[..], Verdict::Folded { layers: labels(layers), side: *side }),
        Fate::ScaleFolded { layers } => (&layers[..], Verdict::ScaleFolded { layers: labels(layers) }),
        Fate::Merged { into } => (&[][..], Verdict::Merged { into: graph.label(*into) }),
        Fate::Refused(refusal) => (&[][..], Verdict::Refused(refusal.clone())),
    };
    let weights = layers.iter().filter_map(|layer| decided.reports.get(layer)).map(|report| report.weight);
    Row {
        node: graph.label(id),
        op: graph.node(id).given_op().to_owned(),
        kind: layers.first().map(|&layer| kind(decided, layer)).unwrap_or_default(),
        channels: found.channels,
        max_abs_scale: found.report.as_ref().map(|report| report.max_abs_scale),
        min_var_plus_eps: found.report.as_ref().and_then(|report| report.min_var_plus_eps),
        warnings: found.report.as_ref().map(|report| report.warnings.clone()).unwrap_or_default(),
        weight: weights.reduce(RoundingReport::with),
        verdict,
        bytes_per_image: bytes_per_image(decided, found),
    }
}

/// What kind of layer a node is.
fn kind(decided: &Decided<'_>, layer: NodeId) -> String {
    let Some(linear) = decided.pass.layers.get(&layer) else { return String::new() };
    match linear.layer {
        Layer::Linear | Layer::MatMul => decided.pass.graph.node(layer).op.to_owned(),
        convolution => convolution.kind(linear.weight.dims().len()),
    }
}

/// A map reads its input and writes its output, which are of one size.
fn bytes_per_image(decided: &Decided<'_>, found: &Found) -> Option<u64> {
    let dims = decided.pass.shapes.get(found.data?)?;
    let elements = dims.iter().skip(1).try_fold(1_u64, |len, &dim| len.checked_mul(dim? as u64))?;
    let info = decided.pass.graph.value(found.data?).value_info;
    let element = info.and_then(|info| stated_type(info).ok().flatten()).and_then(|(element, _)| element.size());
    elements.checked_mul(2 * element.unwrap_or(4) as u64)
}
