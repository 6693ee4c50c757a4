//! What a person may wish of a fold.

/// What to do with a `BatchNorm` that only the layers behind it could absorb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Forward {
    /// Leave it.
    Off,
    /// Fold it where that is exact: into a `Gemm`, a `MatMul`, a convolution without padding, or without a shift.
    #[default]
    Exact,
    /// Also fold its scale into convolutions padded with zeros, and leave its shift before them as an addition, which is
    /// exact too.
    Scale,
}

/// What to fold, and how far to go.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Patterns of the nodes to fold, with `*` for any text and `?` for any character; all, where there are none.
    pub only: Vec<String>,
    /// Patterns of the nodes not to fold.
    pub skip: Vec<String>,
    /// What to do with a `BatchNorm` before a layer.
    pub forward: Forward,
    /// Whether to merge parallel convolutions and `BatchNorm`s whose outputs are added, as in RepVGG and MobileOne.
    pub merge_branches: bool,
    /// Whether to give a `BatchNorm` a copy of a layer whose output others read too; it costs that layer's work again.
    pub duplicate_shared: bool,
    /// Whether to take initializers that are also inputs of the model for constants.
    pub freeze_inputs: bool,
}

impl Options {
    pub(crate) fn selects(&self, name: &str) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        (self.only.is_empty() || any(&self.only)) && !any(&self.skip)
    }
}

/// Whether a name is one that a pattern stands for.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of) = (0, 0);
    // Where to go on if what follows the last `*` does not fit here.
    let mut retry = None;
    while at < name.len() {
        match pattern.get(of) {
            Some('*') => {
                retry = Some((at, of));
                of += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[at] => {
                at += 1;
                of += 1;
            }
            _ => {
                let Some((start, star)) = retry else { return false };
                retry = Some((start + 1, star));
                (at, of) = (start + 1, star + 1);
            }
        }
    }
    pattern[of..].iter().all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name) in
            [("*", ""), ("a*c", "abbc"), ("a*c", "ac"), ("*.bn?", "x.y.bn1"), ("**b*", "aabc"), ("", "")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("", "a"), ("a*c", "abcd"), ("?", ""), ("*.bn", "bn"), ("a", "A")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn only_and_skip() {
        let options = Options { only: vec!["layer1.*".into()], skip: vec!["*.bn2".into()], ..Options::default() };
        assert!(options.selects("layer1.bn1") && !options.selects("layer1.bn2") && !options.selects("layer2.bn1"));
        assert!(Options::default().selects("anything"));
    }
}
