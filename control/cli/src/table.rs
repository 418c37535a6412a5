//! Tables for people.

use std::io::{self, IsTerminal, Write};

/// Prints rows under a header, columns aligned; the header is bold on a terminal.
pub(crate) fn print<const N: usize>(header: [&str; N], rows: &[[String; N]]) {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded: Vec<String> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut out = io::stdout().lock();
    let (bold, plain) = if out.is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    // Whoever closes the pipe early (`| head`) has seen enough.
    let _ = writeln!(out, "{bold}{}{plain}", line(&header.map(str::to_owned)));
    for row in rows {
        let _ = writeln!(out, "{}", line(row));
    }
}
