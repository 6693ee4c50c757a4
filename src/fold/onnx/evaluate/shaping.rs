//! Operators that move elements and compute none, and resizing.

use super::{
    super::{
        constants::{axis_of, permutation, reshaped, squeezed, unsqueezed},
        node::Node,
    },
    array::{Array, room, strides, walk},
};

pub(super) fn reshape(x: &Array, shape: &[i64], allow_zero: bool) -> Option<Array> {
    let given: Vec<_> = x.dims.iter().map(|&dim| Some(dim)).collect();
    let dims = reshaped(&given, shape, allow_zero)?.into_iter().collect::<Option<Vec<_>>>()?;
    x.shaped(dims)
}

pub(super) fn flatten(x: &Array, axis: i64) -> Option<Array> {
    let rank = i64::try_from(x.dims.len()).ok()?;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&axis| axis <= x.dims.len())?;
    x.shaped(vec![x.dims[..axis].iter().product(), x.dims[axis..].iter().product()])
}

pub(super) fn squeeze(x: &Array, axes: Option<&[i64]>) -> Option<Array> {
    x.shaped(squeezed(&x.dims, axes)?)
}

pub(super) fn unsqueeze(x: &Array, axes: &[i64]) -> Option<Array> {
    x.shaped(unsqueezed(&x.dims, axes)?)
}

pub(super) fn transpose(x: &Array, perm: Option<&[i64]>) -> Option<Array> {
    let perm = permutation(perm, x.dims.len())?;
    let own = strides(&x.dims);
    let dims: Vec<_> = perm.iter().map(|&axis| x.dims[axis]).collect();
    let steps: Vec<_> = perm.iter().map(|&axis| own[axis]).collect();
    let data = walk(&dims, &steps, 0).map(|from| x.data[from]).collect();
    Some(Array { dims, data })
}

pub(super) fn concat(arrays: &[&Array], axis: i64) -> Option<Array> {
    let first = arrays.first()?;
    let axis = axis_of(axis, first.dims.len())?;
    let is_alike = |array: &&Array| {
        let others = |dims: &[usize]| [&dims[..axis], &dims[axis + 1..]].concat();
        array.dims.len() == first.dims.len() && others(&array.dims) == others(&first.dims)
    };
    if !arrays.iter().all(is_alike) {
        return None;
    }
    let mut dims = first.dims.clone();
    dims[axis] = arrays.iter().map(|array| array.dims[axis]).sum();
    let (outer, _, inner) = first.around(axis);
    let mut data = Vec::with_capacity(room(&dims)?);
    for index in 0..outer {
        for array in arrays {
            let len = array.dims[axis] * inner;
            data.extend_from_slice(&array.data[index * len..][..len]);
        }
    }
    Some(Array { dims, data })
}

/// Steps `start`, `start + step` and so on of an axis.
fn take(x: &Array, axis: usize, steps: &[usize]) -> Option<Array> {
    let (outer, len, inner) = x.around(axis);
    if steps.iter().any(|&step| step >= len) {
        return None;
    }
    let mut dims = x.dims.clone();
    dims[axis] = steps.len();
    let mut data = Vec::with_capacity(room(&dims)?);
    for index in 0..outer {
        for step in steps {
            data.extend_from_slice(&x.data[(index * len + step) * inner..][..inner]);
        }
    }
    Some(Array { dims, data })
}

pub(super) fn split(x: &Array, axis: i64, sizes: Option<Vec<i64>>, parts: usize) -> Option<Vec<Array>> {
    let axis = axis_of(axis, x.dims.len())?;
    let len = x.dims[axis];
    let sizes = match sizes {
        Some(sizes) => sizes.into_iter().map(|size| usize::try_from(size).ok()).collect::<Option<Vec<_>>>()?,
        None => {
            let each = len.div_ceil(parts.max(1));
            (0..parts).map(|part| each.min(len.saturating_sub(part * each))).collect()
        }
    };
    let mut start = 0_usize;
    let part = |size: usize| {
        let end = start.checked_add(size)?;
        let steps: Vec<_> = (start..end.min(len + 1)).collect();
        start = end;
        take(x, axis, &steps)
    };
    sizes.into_iter().map(part).collect()
}

pub(super) fn slice(
    x: &Array,
    starts: &[i64],
    ends: &[i64],
    axes: Option<&[i64]>,
    steps: Option<&[i64]>,
) -> Option<Array> {
    let mut sliced = x.clone();
    for (index, (&start, &end)) in starts.iter().zip(ends).enumerate() {
        let axis = match axes {
            Some(axes) => axis_of(*axes.get(index)?, x.dims.len())?,
            None => Some(index).filter(|&index| index < x.dims.len())?,
        };
        let step = steps.map_or(Some(1), |steps| steps.get(index).copied())?;
        let len = i64::try_from(sliced.dims[axis]).ok()?;
        let from_end = |at: i64| if at < 0 { at.saturating_add(len) } else { at };
        let mut taken = Vec::new();
        let (mut at, end) = if step > 0 {
            (from_end(start).clamp(0, len), from_end(end).clamp(0, len))
        } else {
            (from_end(start).clamp(-1, len - 1), from_end(end).clamp(-1, len - 1))
        };
        while step != 0 && if step > 0 { at < end } else { at > end } {
            taken.push(usize::try_from(at).ok()?);
            at = at.checked_add(step)?;
        }
        sliced = take(&sliced, axis, &taken)?;
    }
    Some(sliced)
}

pub(super) fn gather(x: &Array, indices: &Array, axis: i64) -> Option<Array> {
    let axis = axis_of(axis, x.dims.len())?;
    let steps = indices.ints().into_iter().map(|index| axis_of(index, x.dims[axis])).collect::<Option<Vec<_>>>()?;
    let taken = take(x, axis, &steps)?;
    taken.shaped([&x.dims[..axis], &indices.dims, &x.dims[axis + 1..]].concat())
}

pub(super) fn pad(x: &Array, pads: &[i64], mode: &str, value: f64) -> Option<Array> {
    let rank = x.dims.len();
    let mut padded = x.clone();
    for axis in 0..rank {
        let (begin, end) = (*pads.get(axis)?, *pads.get(axis + rank)?);
        let len = i64::try_from(padded.dims[axis]).ok()?;
        let total = len.checked_add(begin)?.checked_add(end).filter(|&total| (0..1 << 28).contains(&total))?;
        if (begin, end) == (0, 0) {
            continue;
        }
        let source = |at: i64| {
            let at = at - begin;
            let inside = match mode {
                "edge" => at.clamp(0, len - 1),
                "reflect" if at < 0 => -at,
                "reflect" if at >= len => 2 * (len - 1) - at,
                "wrap" => at.rem_euclid(len),
                _ => at,
            };
            usize::try_from(inside).ok().filter(|_| inside < len)
        };
        let (outer, was, inner) = padded.around(axis);
        let mut dims = padded.dims.clone();
        dims[axis] = usize::try_from(total).ok()?;
        let mut wider = Array::zeros(dims)?;
        for (index, chunk) in wider.data.chunks_exact_mut(inner.max(1)).enumerate() {
            let (outside, at) = (index / total.cast_unsigned() as usize, index as i64 % total);
            debug_assert!(outside < outer, "a chunk of the array");
            match source(at) {
                Some(from) => chunk.copy_from_slice(&padded.data[(outside * was + from) * inner..][..inner]),
                None => chunk.fill(value),
            }
        }
        padded = wider;
    }
    Some(padded)
}

/// Where an output of a resize comes from, along one axis: elements and their shares.
fn sources(node: &Node<'_>, len: usize, resized: usize, scale: f64) -> Option<Vec<[(usize, f64); 2]>> {
    let is_linear = matches!(node.text("mode"), Some("linear"));
    let is_upsample = node.op == "Upsample";
    let transform =
        node.text("coordinate_transformation_mode").unwrap_or(if is_upsample { "asymmetric" } else { "half_pixel" });
    let rounding = node.text("nearest_mode").unwrap_or(if is_upsample { "floor" } else { "round_prefer_floor" });
    let last = (len as f64 - 1.0).max(0.0);
    let source = |output: usize| {
        let output = output as f64;
        let at = match transform {
            "half_pixel" => (output + 0.5) / scale - 0.5,
            "pytorch_half_pixel" if resized > 1 => (output + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => 0.0,
            "align_corners" if resized > 1 => output * last / (resized as f64 - 1.0),
            "align_corners" => 0.0,
            "asymmetric" => output / scale,
            _ => return None,
        };
        let index = |at: f64| at.clamp(0.0, last) as usize;
        if is_linear {
            let at = at.clamp(0.0, last);
            let share = at - at.floor();
            return Some([(index(at.floor()), 1.0 - share), (index(at.floor() + 1.0), share)]);
        }
        let nearest = match rounding {
            "round_prefer_floor" => (at - 0.5).ceil(),
            "round_prefer_ceil" => (at + 0.5).floor(),
            "floor" => at.floor(),
            "ceil" => at.ceil(),
            _ => return None,
        };
        Some([(index(nearest), 1.0), (0, 0.0)])
    };
    (0..resized).map(source).collect()
}

pub(super) fn resize(node: &Node<'_>, x: &Array, scales: Option<&Array>, sizes: Option<&Array>) -> Option<Array> {
    if !matches!(node.text("mode"), None | Some("nearest" | "linear")) || node.attribute("axes").is_some() {
        return None;
    }
    let mut resized = x.clone();
    for axis in 0..x.dims.len() {
        let len = resized.dims[axis];
        let (new, scale) = match (scales, sizes) {
            (Some(scales), _) => {
                let scale = *scales.data.get(axis)?;
                ((len as f64 * scale).floor(), scale)
            }
            (None, Some(sizes)) => (*sizes.data.get(axis)?, *sizes.data.get(axis)? / len as f64),
            (None, None) => return None,
        };
        let new = (0.0..268_435_456.0).contains(&new).then_some(new as usize)?;
        if new == len {
            continue;
        }
        let (outer, _, inner) = resized.around(axis);
        let mut dims = resized.dims.clone();
        dims[axis] = new;
        room(&[new])?;
        let mut wider = Array::zeros(dims)?;
        let sources = sources(node, len, new, scale)?;
        for index in 0..outer {
            for (output, from) in sources.iter().enumerate() {
                let to = &mut wider.data[(index * new + output) * inner..][..inner];
                for &(step, share) in from.iter().filter(|&&(_, share)| share != 0.0) {
                    let row = &resized.data[(index * len + step) * inner..][..inner];
                    to.iter_mut().zip(row).for_each(|(sum, value)| *sum += share * value);
                }
            }
        }
        resized = wider;
    }
    Some(resized)
}

pub(super) fn depth_to_space(node: &Node<'_>, x: &Array) -> Option<Array> {
    let block = usize::try_from(node.int("blocksize", 0)).ok().filter(|&block| block > 0)?;
    let [samples, channels, height, width] = x.dims[..] else { return None };
    let inner = channels.checked_div(block.checked_mul(block)?).filter(|inner| inner * block * block == channels)?;
    let (split, perm): (_, [i64; 6]) = if node.text("mode") == Some("CRD") {
        (vec![samples, inner, block, block, height, width], [0, 1, 4, 2, 5, 3])
    } else {
        (vec![samples, block, block, inner, height, width], [0, 3, 4, 1, 5, 2])
    };
    let moved = transpose(&x.shaped(split)?, Some(&perm))?;
    moved.shaped(vec![samples, inner, height * block, width * block])
}
