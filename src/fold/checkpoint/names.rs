//! Which layer a `BatchNorm` belongs to, by the names of modules.

use std::collections::{BTreeMap, BTreeSet};

use super::file::Checkpoint;
use crate::fold::Refusal;

/// How a name was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// `x.bn` belongs to `x.conv`: it says so.
    Named,
    /// `x.bn1` to `x.conv1`, by their numbers. Networks that normalize before they convolve use the same names.
    Numbered,
    /// `x.1` to `x.0`, in a sequence.
    Sequential,
}

/// The modules that are `BatchNorm`s: those with running statistics.
pub(super) fn batch_norms(checkpoint: &Checkpoint) -> BTreeSet<&str> {
    let stem = |name: &'static str| move |tensor: &&str| tensor.ends_with(name);
    let means = checkpoint.names().filter(stem(".running_mean"));
    let stems = means.map(|tensor| &tensor[..tensor.len() - ".running_mean".len()]);
    stems.filter(|stem| checkpoint.entry(&format!("{stem}.running_var")).is_some()).collect()
}

/// For each `BatchNorm` the layer before it, or why there is none.
pub(super) fn pairs(checkpoint: &Checkpoint) -> BTreeMap<&str, Result<String, Refusal>> {
    let norms = batch_norms(checkpoint);
    let found: BTreeMap<&str, Result<(String, Rule), Refusal>> =
        norms.iter().map(|&norm| (norm, layer_of(checkpoint, norm))).collect();
    let outputs = |layer: &str| checkpoint.entry(&format!("{layer}.weight")).map(|entry| entry.shape[0]);
    let channels =
        |norm: &str| checkpoint.entry(&format!("{norm}.running_mean")).and_then(|entry| entry.shape.first().copied());
    // Where one number contradicts a shape, the others prove nothing.
    let contradiction = found.iter().find_map(|(norm, found)| match found {
        Ok((layer, Rule::Numbered)) if outputs(layer) != channels(norm) => Some(format!("{norm} and {layer}")),
        _ => None,
    });
    let mut claims: BTreeMap<String, usize> = BTreeMap::new();
    for (layer, _) in found.values().flatten() {
        *claims.entry(layer.clone()).or_default() += 1;
    }
    let decided = |found: Result<(String, Rule), Refusal>| {
        let (layer, rule) = found?;
        if let Some(pair) = contradiction.as_ref().filter(|_| rule == Rule::Numbered) {
            let why =
                format!("{pair} go together by their numbers but not by their channels, so numbers prove nothing here");
            return Err(Refusal::Ambiguous { why });
        }
        if claims.get(&layer) != Some(&1) {
            return Err(Refusal::Ambiguous { why: format!("several BatchNorms belong to {layer} by their names") });
        }
        Ok(layer)
    };
    found.into_iter().map(|(norm, found)| (norm, decided(found))).collect()
}

fn layer_of(checkpoint: &Checkpoint, norm: &str) -> Result<(String, Rule), Refusal> {
    let (parent, leaf) = norm.rsplit_once('.').unwrap_or(("", norm));
    let sibling = |name: &str| if parent.is_empty() { name.to_owned() } else { format!("{parent}.{name}") };
    let is_layer = |name: &str| checkpoint.entry(&format!("{name}.weight")).is_some_and(|entry| entry.shape.len() >= 2);
    let has = |name: &str| is_layer(&sibling(name));
    let none = || Refusal::NoLayer { node: norm.to_owned() };
    if leaf.starts_with("norm") {
        return Err(Refusal::Ambiguous {
            why: "modules that are called norm stand before their layer in some networks and behind it in others"
                .to_owned(),
        });
    }
    let (names, rule) = if leaf == "bn" {
        (vec!["conv", "linear", "conv_transpose", "c"].into_iter().map(sibling).collect(), Rule::Named)
    } else if let Some(number) = leaf.strip_prefix("bn").filter(|number| is_number(number)) {
        match by_role(&has, number) {
            Some(role) => (vec![sibling(role)], Rule::Named),
            None => (vec![sibling(&format!("conv{number}"))], Rule::Numbered),
        }
    } else if is_number(leaf) {
        let before = leaf.parse::<u64>().ok().and_then(|index| index.checked_sub(1));
        (vec![sibling(&before.ok_or_else(none)?.to_string())], Rule::Sequential)
    } else {
        return Err(none());
    };
    let layer: String = names.into_iter().find(|name| is_layer(name)).ok_or_else(none)?;
    // In a square weight nothing tells inputs from outputs, and here the name says that it may be the other way round.
    let is_transposed =
        ["transpose", "deconv", "convt", "upconv"].iter().any(|part| layer.to_lowercase().contains(part));
    if is_transposed {
        let why = format!("{layer} seems to be a transposed convolution, which has its outputs on another axis");
        return Err(Refusal::Ambiguous { why });
    }
    Ok((layer, rule))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The blocks of timm's EfficientNets and MobileNets, where numbers go by the order and names by what a layer does.
fn by_role(has: &impl Fn(&str) -> bool, number: &str) -> Option<&'static str> {
    let blocks: [&[&str]; 4] = [
        &["conv_pw", "conv_dw", "conv_pwl"],
        &["conv_dw", "conv_pw"],
        &["conv_exp", "conv_pwl"],
        &["conv_stem", "conv_head"],
    ];
    let block = blocks.into_iter().find(|block| block.iter().all(|layer| has(layer)))?;
    let index = number.parse::<usize>().ok()?.checked_sub(1)?;
    block.get(index).copied()
}
