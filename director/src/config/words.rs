//! Words of the file within messages.

/// Longer values are cut off in messages, in characters.
const SHOWN: usize = 60;

/// Names looked through for the one that was meant, so that a huge file full of
/// wrong names is still answered at once.
const CANDIDATES: usize = 200;

/// The name among the candidates that was probably meant, if one is near.
pub(super) fn closest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let length = name.chars().count();
    // The distance takes memory by the product of the lengths.
    if length > SHOWN {
        return None;
    }
    let near = length.div_ceil(3);
    candidates
        .into_iter()
        .take(CANDIDATES)
        .filter(|candidate| candidate.len() <= 2 * SHOWN)
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|&(distance, _)| distance <= near)
        .min()
        .map(|(_, candidate)| candidate)
}

/// A value of the file between quotes, cut off where it is long.
pub(super) fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    let dots = if cut.len() < text.len() { "…" } else { "" };
    format!("\"{}{dots}\"", cut.escape_debug())
}

/// A value of the file, in quotes only where it could be misread without.
pub(super) fn shown(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-:/[]%".contains(c);
    if text.is_empty() || text.chars().count() > SHOWN || !text.chars().all(plain) {
        quoted(text)
    } else {
        text.to_owned()
    }
}
