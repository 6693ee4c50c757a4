//! Patterns of names.

/// Whether a name is among those that are wanted: all, where `only` is empty, less those of `skip`.
pub(in crate::fold) fn selects(only: &[String], skip: &[String], name: &str) -> bool {
    let any = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
    (only.is_empty() || any(only)) && !any(skip)
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
        let is_selected = |name: &str| selects(&["layer1.*".to_owned()], &["*.bn2".to_owned()], name);
        assert!(is_selected("layer1.bn1") && !is_selected("layer1.bn2") && !is_selected("layer2.bn1"));
        assert!(selects(&[], &[], "anything"));
    }
}
