//! Buffers against a problem: lengths, types, alignment and overlap, all before anything is launched.

use crate::element::{DType, Kind};
use crate::error::{Error, Result};
use crate::problem::{
    Affine, BatchStatistics, Buffers, ChannelTable, ChannelsLast, Constants, HeadRows, Pointwise, Problem, Rows,
};
use crate::quantization::Scaling;
use crate::tensors::{Tensor, Tensors};

/// The elements that a call touches in one buffer: `rows` stretches of `length`, `stride` apart.
#[derive(Clone, Copy)]
struct Extent {
    rows: usize,
    length: usize,
    stride: usize,
}

impl Extent {
    fn flat(length: usize) -> Self {
        Self { rows: 1, length, stride: length }
    }

    /// From the first element to the last; `None` if that exceeds the address space.
    fn span(self) -> Option<usize> {
        if self.rows == 0 || self.length == 0 {
            return Some(0);
        }
        (self.rows - 1).checked_mul(self.stride)?.checked_add(self.length)
    }
}

/// Of a workspace, in bytes: what the structures in it need, and any allocator gives.
const WORKSPACE_ALIGNMENT: u64 = 16;

/// A checked buffer, for the search for overlaps.
#[derive(Clone, Copy)]
struct Region {
    argument: &'static str,
    address: u64,
    extent: Extent,
    size: usize,
}

impl Region {
    fn bytes(&self) -> u64 {
        (self.extent.span().unwrap_or(usize::MAX) as u64).saturating_mul(self.size as u64)
    }

    /// Bytes between the starts of rows.
    fn pitch(&self) -> u64 {
        (self.extent.stride as u64).saturating_mul(self.size as u64)
    }

    fn same_elements(&self, other: &Self) -> bool {
        self.address == other.address
            && self.size == other.size
            && (self.extent.rows <= 1 || self.extent.stride == other.extent.stride)
    }

    /// Apart in memory, or columns of one matrix that lie side by side.
    fn apart(&self, other: &Self) -> bool {
        let (mine, others) = (self.bytes(), other.bytes());
        if mine == 0 || others == 0 {
            return true;
        }
        if self.address.saturating_add(mine) <= other.address || other.address.saturating_add(others) <= self.address {
            return true;
        }
        let pitch = self.pitch();
        if pitch == 0 || pitch != other.pitch() {
            return false;
        }
        let (low, high) = if self.address <= other.address { (self, other) } else { (other, self) };
        let offset = (high.address - low.address) % pitch;
        offset >= (low.extent.length * low.size) as u64 && offset + (high.extent.length * high.size) as u64 <= pitch
    }
}

/// Checks the buffers of a call against its problem and returns their addresses.
pub(crate) fn check(layer: &'static str, problem: &Problem, args: &Tensors) -> Result<Buffers> {
    if !matches!(problem, Problem::BatchStatistics(_)) {
        const HINT: &str = ": only batch statistics move running ones";
        if args.updates {
            return Err(Error::Unexpected { layer, argument: "update_running_statistics", hint: HINT });
        }
        refuse(layer, "num_batches_tracked", args.num_batches_tracked, HINT)?;
    }
    refuse_foreign(layer, problem, args)?;
    match problem {
        Problem::Rows(rows) => check_rows(layer, rows, args),
        Problem::HeadRows(heads) => check_head_rows(layer, heads, args),
        Problem::ChannelsLast(tensor) => check_channels_last(layer, tensor, args),
        Problem::BatchStatistics(batch) => check_batch_statistics(layer, batch, args),
        Problem::Pointwise(pointwise) => check_pointwise(layer, pointwise, args),
        Problem::ChannelTable(table) => check_table(layer, table, args),
    }
}

/// What surrounds the norm of some problems only.
fn refuse_foreign(layer: &'static str, problem: &Problem, args: &Tensors) -> Result<()> {
    const BY_SAMPLES: &str = ": the layers that normalize each sample by its own moments take it";
    const BY_CHANNELS: &str = ": GroupNorm and InstanceNorm by the input's own moments take it";
    const BY_ELEMENTS: &str = ": LayerNorm and RMSNorm take it";
    let (by_elements, by_channels) = match problem {
        Problem::Rows(rows) => {
            let by_elements = matches!(rows.affine, Affine::PerElement { .. });
            (by_elements, !by_elements)
        }
        Problem::ChannelsLast(_) => (false, true),
        _ => (false, false),
    };
    if !by_channels {
        refuse(layer, "channel_bias", args.channel_bias, BY_CHANNELS)?;
    }
    if !by_elements {
        refuse(layer, "gate", args.gate, BY_ELEMENTS)?;
        refuse(layer, "input_bias", args.input_bias, BY_ELEMENTS)?;
        refuse(layer, "second_residual", args.second_residual, BY_ELEMENTS)?;
        refuse(layer, "post_norm_weight", args.post_norm_weight, BY_ELEMENTS)?;
        refuse(layer, "post_norm_bias", args.post_norm_bias, BY_ELEMENTS)?;
        refuse(layer, "scales", args.scales, BY_ELEMENTS)?;
    }
    if !by_channels && !by_elements {
        refuse(layer, "scale", args.scale, BY_SAMPLES)?;
        refuse(layer, "shift", args.shift, BY_SAMPLES)?;
    }
    if !matches!(problem, Problem::HeadRows(_)) {
        refuse_keys(layer, args, ": QkNorm takes it")?;
        refuse(layer, "key_weight", args.key_weight, ": QkNorm takes it")?;
        refuse(layer, "key_bias", args.key_bias, ": QkNorm takes it")?;
    }
    Ok(())
}

/// Keys that are a tensor of their own, and what belongs to one.
fn refuse_keys(layer: &'static str, args: &Tensors, hint: &'static str) -> Result<()> {
    refuse(layer, "key_input", args.key_input, hint)?;
    refuse(layer, "key_output", args.key_output, hint)?;
    let given = [("key_input_row_stride", args.strides.key_input), ("key_output_row_stride", args.strides.key_output)];
    match given.into_iter().find(|(_, stride)| stride.is_some()) {
        Some((argument, _)) => Err(Error::Unexpected { layer, argument, hint }),
        None => Ok(()),
    }
}

const OWN_MOMENTS: &str = ": it normalizes by the moments of its input";

fn check_channels_last(layer: &'static str, tensor: &ChannelsLast, args: &Tensors) -> Result<Buffers> {
    refuse(layer, "running_mean", args.running_mean, OWN_MOMENTS)?;
    refuse(layer, "running_var", args.running_var, OWN_MOMENTS)?;
    refuse(layer, "channel_table", args.channel_table, OWN_MOMENTS)?;
    let extent = Extent::flat(tensor.samples * tensor.spatial * tensor.channels);
    let mut regions = Regions::default();
    let mut buffers = regions.tensors(layer, args, [tensor.dtype, tensor.output].map(Kind::Element), [extent; 4])?;
    let coefficient = Extent::flat(tensor.channels);
    buffers.weight = regions.optional("weight", args.weight, coefficient)?;
    buffers.bias = regions.optional("bias", args.bias, coefficient)?;
    regions.modulation(args, tensor.samples * tensor.channels, &mut buffers)?;
    regions.workspace(args.workspace, &mut buffers)?;
    regions.check_overlaps()?;
    Ok(buffers)
}

fn check_batch_statistics(layer: &'static str, batch: &BatchStatistics, args: &Tensors) -> Result<Buffers> {
    const MOVED: &str = ": batch statistics move them, so give them by update_running_statistics";
    const HINT: &str = ": it normalizes by the statistics of the batch";
    if !args.updates {
        refuse(layer, "running_mean", args.running_mean, MOVED)?;
        refuse(layer, "running_var", args.running_var, MOVED)?;
        refuse(layer, "num_batches_tracked", args.num_batches_tracked, " without running statistics")?;
    } else if batch.momentum.is_none() && args.num_batches_tracked.is_none() {
        // The average over all batches needs their number.
        return Err(Error::Missing { layer, argument: "num_batches_tracked" });
    }
    refuse(layer, "channel_table", args.channel_table, HINT)?;
    let extent = Extent::flat(batch.samples * batch.spatial * batch.channels);
    let mut regions = Regions::default();
    let mut buffers = regions.tensors(layer, args, [batch.dtype, batch.output].map(Kind::Element), [extent; 4])?;
    let channels = Extent::flat(batch.channels);
    buffers.weight = regions.optional("weight", args.weight, channels)?;
    buffers.bias = regions.optional("bias", args.bias, channels)?;
    let f32 = Some(Kind::Element(DType::F32));
    for (argument, operand, address) in [
        ("running_mean", args.running_mean, &mut buffers.running_mean),
        ("running_var", args.running_var, &mut buffers.running_var),
    ] {
        *address = operand.map_or(Ok(0), |operand| regions.operand(argument, operand, channels, f32, true))?;
    }
    if let Some(operand) = args.num_batches_tracked {
        buffers.num_batches_tracked = regions.operand("num_batches_tracked", operand, Extent::flat(1), None, true)?;
    }
    regions.workspace(args.workspace, &mut buffers)?;
    regions.check_overlaps()?;
    Ok(buffers)
}

fn check_rows(layer: &'static str, rows: &Rows, args: &Tensors) -> Result<Buffers> {
    refuse(layer, "running_mean", args.running_mean, OWN_MOMENTS)?;
    refuse(layer, "running_var", args.running_var, OWN_MOMENTS)?;
    refuse(layer, "channel_table", args.channel_table, OWN_MOMENTS)?;
    let coefficients = match rows.affine {
        Affine::PerElement { .. } => rows.length,
        Affine::PerChannel { groups, channels_per_group, .. } => groups * channels_per_group,
    };
    let of_samples = match rows.affine {
        // Without rows there may be no rows of a sample either.
        Affine::PerElement { rows_of_sample } => rows.rows / rows_of_sample.max(1) * rows.length,
        Affine::PerChannel { channels_per_group, .. } => rows.rows * channels_per_group,
    };
    let extent = |stride| Extent { rows: rows.rows, length: rows.length, stride };
    let extents = [rows.x_stride, rows.residual_stride, rows.sum_stride, rows.y_stride].map(extent);
    let mut regions = Regions::default();
    let mut buffers = regions.tensors(layer, args, [Kind::Element(rows.dtype), rows.output.kind()], extents)?;
    let coefficient = Extent::flat(coefficients);
    buffers.weight = regions.optional("weight", args.weight, coefficient)?;
    buffers.bias = regions.optional("bias", args.bias, coefficient)?;
    buffers.input_bias = regions.optional("input_bias", args.input_bias, coefficient)?;
    if let Some(operand) = args.second_residual {
        if args.residual.is_none() {
            let hint = " without a residual: one alone is the residual";
            return Err(Error::Unexpected { layer, argument: "second_residual", hint });
        }
        let kind = Some(Kind::Element(rows.dtype));
        buffers.second_residual =
            regions.operand("second_residual", operand, extent(rows.second_residual_stride), kind, false)?;
    }
    buffers.post_norm_weight = regions.optional("post_norm_weight", args.post_norm_weight, coefficient)?;
    buffers.post_norm_bias = regions.optional("post_norm_bias", args.post_norm_bias, coefficient)?;
    if let Some(scaling) = rows.output.scaling() {
        let scales = args.scales.ok_or(Error::Missing { layer, argument: "scales" })?;
        let (extent, f32) = (Extent::flat(scaling.scales(rows.rows, rows.length)), Kind::Element(DType::F32));
        buffers.scales = regions.operand("scales", scales, extent, Some(f32), scaling != Scaling::Static)?;
    }
    regions.modulation(args, of_samples, &mut buffers)?;
    regions.workspace(args.workspace, &mut buffers)?;
    regions.check_overlaps()?;
    Ok(buffers)
}

fn check_head_rows(layer: &'static str, heads: &HeadRows, args: &Tensors) -> Result<Buffers> {
    const ALONE: &str = ": heads are normalized as they are";
    const PACKED: &str = " without a key_output: queries and keys are in one tensor then";
    refuse(layer, "running_mean", args.running_mean, OWN_MOMENTS)?;
    refuse(layer, "running_var", args.running_var, OWN_MOMENTS)?;
    refuse(layer, "channel_table", args.channel_table, OWN_MOMENTS)?;
    refuse(layer, "residual", args.residual, ALONE)?;
    refuse(layer, "sum", args.sum, ALONE)?;
    let mut regions = Regions::default();
    let extent = |length, stride| Extent { rows: heads.tokens, length, stride };
    let [of_query, of_key] = [heads.query, heads.key].map(|of_kind| {
        let length = heads.packed.unwrap_or(of_kind.count * heads.length);
        [extent(length, of_kind.x_stride), extent(length, of_kind.y_stride)]
    });
    let [x, y] = of_query;
    let mut buffers = regions.tensors(layer, args, [Kind::Element(heads.dtype); 2], [x, x, y, y])?;
    if heads.packed.is_some() {
        refuse_keys(layer, args, PACKED)?;
        let bytes_of_queries = (heads.query.count * heads.length * heads.dtype.size()) as u64;
        (buffers.key_x, buffers.key_y) =
            [buffers.x, buffers.y].map(|address| address.saturating_add(bytes_of_queries)).into();
    } else {
        let [x, y] = of_key;
        let types = Some(Kind::Element(heads.dtype));
        let output = args.key_output.ok_or(Error::Missing { layer, argument: "key_output" })?;
        buffers.key_y = regions.operand("key_output", output, y, types, true)?;
        buffers.key_x = match args.key_input {
            Some(operand) => regions.operand("key_input", operand, x, types, false)?,
            None => buffers.key_y,
        };
    }
    let coefficient = Extent::flat(heads.length);
    buffers.weight = regions.optional("weight", args.weight, coefficient)?;
    buffers.bias = regions.optional("bias", args.bias, coefficient)?;
    buffers.key_weight = regions.optional("key_weight", args.key_weight, coefficient)?;
    buffers.key_bias = regions.optional("key_bias", args.key_bias, coefficient)?;
    regions.workspace(args.workspace, &mut buffers)?;
    regions.check_overlaps()?;
    Ok(buffers)
}

fn check_pointwise(layer: &'static str, map: &Pointwise, args: &Tensors) -> Result<Buffers> {
    let mut regions = Regions::default();
    let mut buffers =
        regions.tensors(layer, args, [map.dtype, map.output].map(Kind::Element), [Extent::flat(map.length); 4])?;
    if map.constants == Constants::Table {
        const HINT: &str = " beside a channel_table, which holds it already";
        refuse(layer, "running_mean", args.running_mean, HINT)?;
        refuse(layer, "running_var", args.running_var, HINT)?;
        refuse(layer, "weight", args.weight, HINT)?;
        refuse(layer, "bias", args.bias, HINT)?;
        let extent = Extent::flat(3 * map.channels);
        buffers.table = regions.required(layer, "channel_table", args.channel_table, extent)?;
    } else {
        regions.statistics(layer, args, map.channels, &mut buffers)?;
    }
    regions.workspace(args.workspace, &mut buffers)?;
    regions.check_overlaps()?;
    Ok(buffers)
}

fn check_table(layer: &'static str, table: &ChannelTable, args: &Tensors) -> Result<Buffers> {
    const HINT: &str = " when its table is made";
    refuse(layer, "input", args.input, HINT)?;
    refuse(layer, "residual", args.residual, HINT)?;
    refuse(layer, "sum", args.sum, HINT)?;
    refuse(layer, "channel_table", args.channel_table, HINT)?;
    let mut regions = Regions::default();
    let mut buffers = Buffers::default();
    regions.statistics(layer, args, table.channels, &mut buffers)?;
    let output = args.output.ok_or(Error::Missing { layer, argument: "output" })?;
    buffers.y =
        regions.operand("output", output, Extent::flat(3 * table.channels), Some(Kind::Element(DType::F32)), true)?;
    regions.workspace(args.workspace, &mut buffers)?;
    regions.check_overlaps()?;
    Ok(buffers)
}

fn refuse(layer: &'static str, argument: &'static str, operand: Option<Tensor>, hint: &'static str) -> Result<()> {
    match operand {
        Some(_) => Err(Error::Unexpected { layer, argument, hint }),
        None => Ok(()),
    }
}

/// The buffers of a call so far, on the stack: a call allocates nothing.
#[derive(Default)]
struct Regions {
    list: [Option<Region>; 16],
    count: usize,
    /// A bit for each region that is written.
    written: u32,
}

impl Regions {
    fn add(&mut self, region: Region, written: bool) {
        if let Some(slot) = self.list.get_mut(self.count) {
            *slot = Some(region);
            self.written |= u32::from(written) << self.count;
            self.count += 1;
        }
    }

    /// One buffer: its device, its type, its length, its alignment. Weight and bias come without a type: theirs was
    /// checked when the problem was made of it.
    fn operand(
        &mut self,
        argument: &'static str,
        operand: Tensor,
        extent: Extent,
        kind: Option<Kind>,
        written: bool,
    ) -> Result<u64> {
        if operand.elsewhere {
            return Err(Error::Device { argument });
        }
        if let (Some(expected), Kind::Element(found)) = (kind, operand.kind)
            && expected != operand.kind
        {
            return Err(Error::ElementType { argument, found, expected: expected.name() });
        }
        if extent.stride < extent.length && extent.rows > 1 {
            return Err(Error::RowStride { argument, found: extent.stride, length: extent.length });
        }
        let expected = extent.span().unwrap_or(usize::MAX);
        let contiguous = extent.stride == extent.length;
        if let Some(found) = operand.len
            && (found < expected || (contiguous && found != expected))
        {
            return Err(Error::Length { argument, found, expected });
        }
        let size = operand.kind.size();
        if expected > 0 && !operand.address.is_multiple_of(size as u64) {
            return Err(Error::Misaligned { argument, address: operand.address, size });
        }
        self.add(Region { argument, address: operand.address, extent, size }, written);
        Ok(operand.address)
    }

    fn required(
        &mut self,
        layer: &'static str,
        argument: &'static str,
        operand: Option<Tensor>,
        extent: Extent,
    ) -> Result<u64> {
        let operand = operand.ok_or(Error::Missing { layer, argument })?;
        self.operand(argument, operand, extent, Some(Kind::Element(DType::F32)), false)
    }

    fn optional(&mut self, argument: &'static str, operand: Option<Tensor>, extent: Extent) -> Result<u64> {
        operand.map_or(Ok(0), |operand| self.operand(argument, operand, extent, None, false))
    }

    /// What differs from sample to sample.
    fn modulation(&mut self, args: &Tensors, elements: usize, buffers: &mut Buffers) -> Result<()> {
        let extent = Extent::flat(elements);
        buffers.scale = self.optional("scale", args.scale, extent)?;
        buffers.shift = self.optional("shift", args.shift, extent)?;
        buffers.channel_bias = self.optional("channel_bias", args.channel_bias, extent)?;
        buffers.gate = self.optional("gate", args.gate, extent)?;
        Ok(())
    }

    /// Whether it is large enough is the backend's to say.
    fn workspace(&mut self, workspace: Option<Tensor>, buffers: &mut Buffers) -> Result<()> {
        const ARGUMENT: &str = "workspace";
        let Some(Tensor { address, len, elsewhere, .. }) = workspace else { return Ok(()) };
        if elsewhere {
            return Err(Error::Device { argument: ARGUMENT });
        }
        if !address.is_multiple_of(WORKSPACE_ALIGNMENT) {
            return Err(Error::Misaligned { argument: ARGUMENT, address, size: WORKSPACE_ALIGNMENT as usize });
        }
        (buffers.workspace, buffers.workspace_bytes) = (address, len.unwrap_or(0));
        let extent = Extent::flat(buffers.workspace_bytes);
        self.add(Region { argument: ARGUMENT, address, extent, size: 1 }, true);
        Ok(())
    }

    /// Input, residual, sum and output, the last of a type of its own.
    fn tensors(
        &mut self,
        layer: &'static str,
        args: &Tensors,
        [kind, output_kind]: [Kind; 2],
        [x, residual, sum, y]: [Extent; 4],
    ) -> Result<Buffers> {
        let types = Some(kind);
        let output = args.output.ok_or(Error::Missing { layer, argument: "output" })?;
        let y = self.operand("output", output, y, Some(output_kind), true)?;
        let mut buffers = Buffers { y, ..Buffers::default() };
        buffers.x = match args.input {
            Some(operand) => self.operand("input", operand, x, types, false)?,
            None => buffers.y,
        };
        if let Some(operand) = args.residual {
            buffers.residual = self.operand("residual", operand, residual, types, args.sum_in_residual)?;
        }
        match args.sum {
            Some(_) if args.sum_in_residual => {
                let hint = " beside sum_in_residual: the sum goes to one place";
                return Err(Error::Unexpected { layer, argument: "sum", hint });
            }
            Some(_) if args.residual.is_none() => {
                let hint = " without a residual: it would be a copy of the input";
                return Err(Error::Unexpected { layer, argument: "sum", hint });
            }
            Some(operand) => buffers.sum = self.operand("sum", operand, sum, types, true)?,
            None if args.sum_in_residual => buffers.sum = buffers.residual,
            None => {}
        }
        Ok(buffers)
    }

    /// Running statistics, weight and bias of a call without a table.
    fn statistics(
        &mut self,
        layer: &'static str,
        args: &Tensors,
        channels: usize,
        buffers: &mut Buffers,
    ) -> Result<()> {
        let extent = Extent::flat(channels);
        buffers.running_mean = self.required(layer, "running_mean", args.running_mean, extent)?;
        buffers.running_var = self.required(layer, "running_var", args.running_var, extent)?;
        buffers.weight = self.optional("weight", args.weight, extent)?;
        buffers.bias = self.optional("bias", args.bias, extent)?;
        Ok(())
    }

    /// What is written may be exactly the input or a residual, and shares memory with nothing else. Safe Rust cannot
    /// do otherwise; device pointers and views of other libraries can.
    fn check_overlaps(&self) -> Result<()> {
        let regions = self.list.iter().flatten().enumerate();
        for (index, region) in regions.clone().filter(|(index, _)| self.written >> index & 1 == 1) {
            for (_, other) in regions.clone().filter(|&(other, _)| other != index) {
                let may_be_one = match region.argument {
                    "output" | "sum" => matches!(other.argument, "input" | "residual" | "second_residual"),
                    "key_output" => other.argument == "key_input",
                    _ => false,
                };
                let in_place = may_be_one && region.same_elements(other);
                if !in_place && !region.apart(other) {
                    return Err(Error::Overlap { written: region.argument, other: other.argument });
                }
            }
        }
        Ok(())
    }
}
