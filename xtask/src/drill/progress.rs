//! What a drill is doing: a bar on a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows phases and, where there is something to count, how far one has come.
/// Everything goes to stderr; stdout is the result's.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Nothing is shown until the first phase.
    #[must_use]
    pub fn new() -> Self {
        Self {
            bar: ProgressBar::new_spinner(),
        }
    }

    /// A phase of which only the elapsed time can be told.
    pub fn phase(&self, text: &str) {
        self.begin(text, 0, "{spinner} [{elapsed}] {msg}");
    }

    /// A phase that counts up to `total`; see [`Progress::at`].
    pub fn counted(&self, text: &str, total: u64) {
        self.begin(
            text,
            total,
            "{spinner} [{elapsed}] {msg} {wide_bar} {pos}/{len}",
        );
    }

    /// How far the counted phase has come.
    pub fn at(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Adds what is known so far to the phase's text.
    pub fn note(&self, text: String) {
        self.bar.set_message(text);
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    fn begin(&self, text: &str, total: u64, template: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}");
            return;
        }
        // The templates are constants above; the default style shows the same facts.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_length(total);
        self.bar.set_position(0);
        self.bar.set_message(text.to_owned());
        self.bar.enable_steady_tick(Duration::from_millis(100));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
