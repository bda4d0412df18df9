//! A chart of horizontal bars, in groups, as SVG. Few enough of them to need no library.

use std::fmt::Write as _;

use super::markdown::brief;

pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) scale: Scale,
    /// What the bars of a group are, from the top.
    pub(crate) series: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

#[derive(Clone, Copy)]
pub(crate) enum Scale {
    Linear,
    /// For values of very different size.
    Logarithmic,
}

/// A group of bars.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// One for each series, or none.
    pub(crate) values: Vec<f64>,
    /// Stands where there are no bars.
    pub(crate) note: &'static str,
}

const WIDTH: f64 = 900.0;
/// Where the bars begin, and where the longest ends: names stand before, the last value behind.
const LEFT: f64 = 180.0;
const RIGHT: f64 = 820.0;
const TOP: f64 = 100.0;
const BAR: f64 = 14.0;
const GAP: f64 = 12.0;
/// Told apart by colour-blind readers, too.
const COLOURS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];

impl Chart {
    pub(crate) fn to_svg(&self) -> String {
        let group = BAR * self.series.len() as f64;
        let bottom = TOP + (group + GAP) * self.rows.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n",
            height = bottom + 36.0
        );
        text(&mut svg, 20.0, 32.0, "font-size=\"20\" font-weight=\"bold\"", self.title);
        text(&mut svg, 20.0, 54.0, "fill=\"#555\"", self.unit);
        self.write_legend(&mut svg);
        self.write_grid(&mut svg, bottom);
        for (number, row) in self.rows.iter().enumerate() {
            self.write_row(&mut svg, row, TOP + GAP / 2.0 + (group + GAP) * number as f64);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn write_legend(&self, svg: &mut String) {
        let mut x = 20.0;
        for (label, colour) in self.series.iter().zip(COLOURS) {
            rectangle(svg, x, 70.0, BAR, colour);
            text(svg, x + BAR + 6.0, 82.0, "", label);
            x += BAR + 36.0 + 7.0 * label.chars().count() as f64;
        }
    }

    fn write_grid(&self, svg: &mut String, bottom: f64) {
        for tick in self.ticks() {
            let x = self.x(tick);
            _ = writeln!(svg, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>");
            let label = tick.to_string();
            text(svg, x, bottom + 18.0, "text-anchor=\"middle\" fill=\"#555\"", &label);
        }
    }

    fn write_row(&self, svg: &mut String, row: &Row, top: f64) {
        let middle = top + BAR * self.series.len() as f64 / 2.0 + 4.0;
        text(svg, LEFT - 10.0, middle, "text-anchor=\"end\"", row.name);
        text(svg, LEFT + 6.0, middle, "fill=\"#999\" font-style=\"italic\"", row.note);
        for (number, (value, colour)) in row.values.iter().zip(COLOURS).enumerate() {
            let y = top + BAR * number as f64;
            rectangle(svg, LEFT, y, self.x(*value) - LEFT, colour);
            text(svg, self.x(*value) + 5.0, y + BAR - 3.0, "font-size=\"11\"", &brief(*value));
        }
    }

    fn x(&self, value: f64) -> f64 {
        let (least, most) = self.range();
        let part = match self.scale {
            Scale::Linear => value / most,
            Scale::Logarithmic => (value / least).log10() / (most / least).log10(),
        };
        LEFT + part.max(0.0) * (RIGHT - LEFT)
    }

    /// The ends of the axis; the lower one of a logarithmic axis is a power of ten.
    fn range(&self) -> (f64, f64) {
        let values = || self.rows.iter().flat_map(|row| row.values.iter().copied());
        let most = values().fold(f64::MIN_POSITIVE, f64::max);
        match self.scale {
            Scale::Linear => (0.0, most),
            Scale::Logarithmic => (10_f64.powf(values().fold(most, f64::min).log10().floor()), most),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        let (least, most) = self.range();
        match self.scale {
            Scale::Linear => {
                let step = step(most);
                (0..).map(|number| step * f64::from(number)).take_while(|tick| *tick <= most).collect()
            }
            Scale::Logarithmic => {
                let decades = std::iter::successors(Some(least), |tick| Some(tick * 10.0));
                decades
                    .take_while(|tick| *tick <= most)
                    .map(|tick| format!("{tick:.6}").parse().unwrap_or(tick))
                    .collect()
            }
        }
    }
}

/// 1, 2 or 5 with zeroes, so that about five ticks fit.
fn step(most: f64) -> f64 {
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|digit| digit * power);
    steps.into_iter().find(|step| most / step <= 6.0).unwrap_or(10.0 * power)
}

fn rectangle(svg: &mut String, x: f64, y: f64, width: f64, colour: &str) {
    let height = BAR - 2.0;
    _ = writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/>");
}

fn text(svg: &mut String, x: f64, y: f64, attributes: &str, text: &str) {
    if !text.is_empty() {
        _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" {attributes}>{text}</text>");
    }
}
