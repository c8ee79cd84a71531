//! What holds for the problems of any text; the fuzz targets ask so too.

use crate::config::Problem;

/// Asserts that each lies within the text, and says something that can be shown.
pub fn within(text: &str, problems: &[Problem]) {
    for problem in problems {
        let line = text.split('\n').nth(problem.line - 1);
        let columns = line.map(|line| line.chars().count() + 1);
        assert!(
            columns.is_some_and(|columns| (1..=columns).contains(&problem.column)),
            "{problem:?} is outside of\n{text}"
        );
        assert!(!problem.message.is_empty() && !problem.help.is_empty());
        let controls = |text: &str| text.contains(|c: char| c.is_control());
        let shown = [
            &problem.key,
            &problem.place,
            &problem.message,
            &problem.help,
        ];
        assert!(!shown.into_iter().any(|text| controls(text)), "{problem:?}");
    }
    assert!(problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
}
