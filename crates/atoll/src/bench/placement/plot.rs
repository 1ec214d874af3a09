//! The result as a picture: one row of bars for each figure, one group for each trace.

use std::fmt::Write as _;

use super::{Contender, Line, Trace};

/// A figure: its title, and how to read it from a line.
type Figure = (&'static str, fn(&Line) -> f64);

const FIGURES: [Figure; 5] = [
    ("nodes used (fewer: cheaper)", |line| line.nodes_used),
    ("stranded cpu and memory, %", |line| line.stranded_percent),
    ("fullest node / mean", |line| line.balance_max_to_mean),
    ("refused", |line| count(line.refused)),
    ("placed where the template is, %", |line| {
        line.template_hits_percent
    }),
];

const COLOURS: [&str; 7] = [
    "#888888", "#1b6ca8", "#2a9d8f", "#7cb518", "#e9a03b", "#d1495b", "#8d5a97",
];

const WIDTH: u32 = 860;
const ROW: u32 = 150;
const GROUP: u32 = 270;
const BAR: u32 = 30;
const HEIGHT: f64 = 90.0;

/// Draws the lines as SVG.
pub(super) fn draw(lines: &[Line]) -> String {
    let rows = u32::try_from(FIGURES.len()).unwrap_or(0);
    let height = rows * ROW + 60;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, contender) in (0..).zip(Contender::ALL) {
        let (x, colour) = (20 + at * 118, COLOURS[contender as usize]);
        let name = contender.as_str();
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"14\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"24\">{name}</text>",
            x + 17
        );
    }
    for (at, figure) in (0..).zip(FIGURES) {
        row(&mut svg, 40 + at * ROW, figure, lines);
    }
    svg.push_str("</svg>\n");
    svg
}

fn row(svg: &mut String, top: u32, (title, read): Figure, lines: &[Line]) {
    let most = lines.iter().map(read).fold(0.0, f64::max).max(1e-9);
    let base = f64::from(top + 125);
    let _ = writeln!(
        svg,
        "<text x=\"20\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        top + 14
    );
    for (group, trace) in (0..).zip([Trace::Low, Trace::High, Trace::Skewed]) {
        let left = 20 + group * GROUP;
        let of_trace = lines.iter().filter(|line| line.trace == trace);
        for (bar, line) in (0..).zip(of_trace) {
            let value = read(line);
            let height = value / most * HEIGHT;
            let (x, y) = (left + bar * BAR, base - height);
            let colour = COLOURS[line.contender as usize];
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y:.1}\" width=\"24\" height=\"{height:.1}\" \
                 fill=\"{colour}\"/><text x=\"{}\" y=\"{:.1}\" font-size=\"8\" \
                 text-anchor=\"middle\">{}</text>",
                x + 12,
                y - 2.0,
                Short(value),
            );
        }
        let name = trace.as_str();
        let _ = writeln!(
            svg,
            "<text x=\"{left}\" y=\"{:.0}\">{name}</text>",
            base + 13.0
        );
    }
}

/// A number in few characters.
struct Short(f64);

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 >= 100.0 {
            write!(f, "{:.0}", self.0)
        } else {
            write!(f, "{:.1}", self.0)
        }
    }
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
