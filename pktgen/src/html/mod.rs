//! Pages that need nothing but themselves: styles and drawings are in them, there are no scripts, and nothing is fetched.

mod bars;
mod page;
mod plot;
mod results;
mod run;
mod search;

pub use bars::times;
pub use results::results_page;
pub use run::{Named, runs_page};
pub use search::{rfc2544_page, search_page};

#[cfg(test)]
mod tests;
