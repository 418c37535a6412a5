//! A page and what it is put together from. Whatever text comes in is escaped.

use std::fmt::{Display, Write};

const STYLE: &str = include_str!("style.css");

/// A page in the making.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

/// Text that is safe in HTML.
#[must_use]
pub fn escape(text: impl Display) -> String {
    let mut out = String::new();
    for c in text.to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no others below the space.
            c if c < ' ' && !matches!(c, '\n' | '\t') => {}
            c => out.push(c),
        }
    }
    out
}

/// A table's cell.
#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    class: &'static str,
}

impl Cell {
    /// Text.
    pub fn text(text: impl Display) -> Self {
        Cell { text: escape(text), class: "" }
    }

    /// A figure: flush right.
    pub fn figure(text: impl Display) -> Self {
        Cell { text: escape(text), class: "n" }
    }

    /// With a class of the style sheet.
    #[must_use]
    pub fn class(mut self, class: &'static str) -> Self {
        self.class = class;
        self
    }
}

impl Page {
    /// An empty page.
    #[must_use]
    pub fn new(title: impl Display) -> Self {
        let title = escape(title);
        let body = format!("<h1>{title}</h1>\n");
        Page { title, body }
    }

    /// A heading.
    pub fn heading(&mut self, text: impl Display) {
        self.put(format_args!("<h2>{}</h2>\n", escape(text)));
    }

    /// A smaller heading.
    pub fn subheading(&mut self, text: impl Display) {
        self.put(format_args!("<h3>{}</h3>\n", escape(text)));
    }

    /// A paragraph.
    pub fn paragraph(&mut self, text: impl Display) {
        self.put(format_args!("<p>{}</p>\n", escape(text)));
    }

    /// What a reader must not overlook.
    pub fn warning(&mut self, text: impl Display) {
        self.put(format_args!("<p class=\"warning\">{}</p>\n", escape(text)));
    }

    /// Large figures, each with what it is.
    pub fn tiles(&mut self, tiles: &[(String, &str, &str)]) {
        self.put(format_args!("<div class=\"tiles\">"));
        for (figure, label, class) in tiles {
            self.put(format_args!(
                "<div class=\"tile {class}\"><b>{}</b><span>{}</span></div>",
                escape(figure),
                escape(label)
            ));
        }
        self.put(format_args!("</div>\n"));
    }

    /// A table; without a head when that is empty.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<Cell>]) {
        self.put(format_args!("<div class=\"wide\"><table>\n"));
        if !head.is_empty() {
            let cells: String = head
                .iter()
                .enumerate()
                .map(|(at, text)| {
                    // A column of figures has its head on the right, too.
                    let figures = rows
                        .first()
                        .and_then(|row| row.get(at))
                        .is_some_and(|cell| cell.class.starts_with('n'));
                    let class = if figures { " class=\"n\"" } else { "" };
                    format!("<th{class}>{}</th>", escape(text))
                })
                .collect();
            self.put(format_args!("<thead><tr>{cells}</tr></thead>\n"));
        }
        self.put(format_args!("<tbody>\n"));
        for row in rows {
            let cells: String =
                row.iter().map(|Cell { text, class }| format!("<td class=\"{class}\">{text}</td>")).collect();
            self.put(format_args!("<tr>{cells}</tr>\n"));
        }
        self.put(format_args!("</tbody></table></div>\n"));
    }

    /// Something to unfold: text as it is.
    pub fn details(&mut self, summary: impl Display, text: impl Display) {
        self.put(format_args!(
            "<details><summary>{}</summary><pre>{}</pre></details>\n",
            escape(summary),
            escape(text)
        ));
    }

    /// A drawing, which is HTML already.
    pub fn drawing(&mut self, drawing: impl Display) {
        self.put(format_args!("{drawing}\n"));
    }

    /// Drawings beside one another, where there is room.
    pub fn beside(&mut self, drawings: &[String]) {
        if drawings.is_empty() {
            return;
        }
        self.put(format_args!("<div class=\"beside\">{}</div>\n", drawings.concat()));
    }

    /// The whole page.
    #[must_use]
    pub fn html(&self) -> String {
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
             <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n\
             <body>\n<main>\n{}</main>\n</body>\n</html>\n",
            self.title, self.body
        )
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing into a String cannot fail.
        let _ = self.body.write_fmt(text);
    }
}
