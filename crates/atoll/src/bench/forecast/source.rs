//! Who asks for sandboxes in the recorded days, and the generator that recorded them.
//!
//! The trace is **made up**. Its shapes are those that published traces of serverless platforms
//! show (working hours with two humps, timetables, unannounced bursts, a steady hum, work that
//! takes whatever it gets); its figures are nobody's.

use std::fmt::Write as _;

use atoll_core::scheduler::amount::Amount;

/// Minutes of a day.
pub(super) const DAY: usize = 1_440;

/// What arrivals of a source look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// People at work.
    Office,
    /// So many within three minutes at each of these minutes of the day, up to two minutes late.
    Timetable(u32, &'static [usize]),
    /// So many within a minute, at four minutes of working hours that nobody knows before.
    Unannounced(u32),
    /// So many thousandths a minute, day and night.
    Steady(u32),
}

/// A team with its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: &'static str,
    pub(super) template: &'static str,
    pub(super) amount: Amount,
    /// How long a sandbox lives on average: from half to one and a half of it.
    pub(super) lives_minutes: u32,
    /// The weight of the team's share.
    pub(super) weight: u32,
    /// Whether somebody waits for it: all but the work that takes whatever it gets.
    pub(super) is_awaited: bool,
    shape: Shape,
}

/// Who asks.
pub(super) const SOURCES: [Source; 5] = [
    Source {
        name: "office",
        template: "notebook",
        amount: Amount::new(2_000, 4_096, 1_024, 10),
        lives_minutes: 20,
        weight: 3,
        is_awaited: true,
        shape: Shape::Office,
    },
    Source {
        name: "timetable",
        template: "agent",
        amount: Amount::new(2_000, 4_096, 1_024, 10),
        lives_minutes: 15,
        weight: 1,
        is_awaited: true,
        shape: Shape::Timetable(24, &[120, 570, 660, 900, 1_200]),
    },
    Source {
        name: "unannounced",
        template: "agent",
        amount: Amount::new(2_000, 4_096, 1_024, 10),
        lives_minutes: 10,
        weight: 1,
        is_awaited: true,
        shape: Shape::Unannounced(10),
    },
    Source {
        name: "hum",
        template: "base",
        amount: Amount::new(1_000, 1_024, 1_024, 10),
        lives_minutes: 30,
        weight: 1,
        is_awaited: true,
        shape: Shape::Steady(700),
    },
    Source {
        name: "greedy",
        template: "batch",
        amount: Amount::new(1_000, 2_048, 1_024, 10),
        lives_minutes: 40,
        weight: 1,
        is_awaited: false,
        shape: Shape::Steady(10_000),
    },
];

/// Thousandths of an arrival a minute at each full hour of a working day.
const OFFICE: [u32; 25] = [
    150, 100, 80, 80, 80, 120, 300, 900, 2_200, 3_600, 4_000, 3_800, 2_600, 3_400, 4_000, 3_800,
    3_200, 2_200, 1_200, 900, 700, 500, 300, 200, 150,
];

/// Numbers that a seed alone decides, the same on every machine and in every version: `SplitMix64`.
pub(super) struct Draws(u64);

impl Draws {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub(super) const fn below(&mut self, bound: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (((z >> 32) * bound as u64) >> 32) as u32
    }

    /// How many come in a minute at so many thousandths: one in each second, or none.
    fn count(&mut self, thousandths: u32) -> u8 {
        let comes = (0..60).filter(|_| self.below(60_000) < thousandths);
        u8::try_from(comes.count()).unwrap_or(60)
    }
}

/// The arrivals of a day, by minute.
fn day(shape: Shape, draws: &mut Draws) -> Vec<u8> {
    let mut counts = vec![0_u8; DAY];
    match shape {
        Shape::Office => {
            // No day is as busy as another.
            let busy = 85 + draws.below(31);
            for (minute, count) in (0_u32..).zip(&mut counts) {
                let (hour, rest) = ((minute / 60) as usize, minute % 60);
                let rate = (OFFICE[hour] * (60 - rest) + OFFICE[hour + 1] * rest) / 60;
                *count = draws.count(rate * busy / 100);
            }
        }
        Shape::Timetable(size, begins) => {
            for begin in begins {
                let begin = begin + draws.below(3) as usize;
                // A sixth more or less.
                let size = size * 5 / 6 + draws.below(size / 3 + 1);
                for _ in 0..size {
                    counts[begin + draws.below(3) as usize] += 1;
                }
            }
        }
        Shape::Unannounced(size) => {
            for _ in 0..4 {
                let begin = 480 + draws.below(720) as usize;
                counts[begin] += u8::try_from(size / 2 + draws.below(size + 1)).unwrap_or(0);
            }
        }
        Shape::Steady(rate) => counts.fill_with(|| draws.count(rate)),
    }
    counts
}

/// Records so many days by a seed, as text.
pub(super) fn record(days: usize, seed: u64) -> String {
    let mut draws = Draws::new(seed);
    let mut text = format!(
        "# Arrivals by minute: day, team, hour, and one number for each of its minutes.\n\
         # Made up by `atoll bench forecast --record FILE --days {days} --seed {seed}`; what it\n\
         # is made up of is in the documentation of that command's source.\n"
    );
    for number in 0..days {
        for source in SOURCES {
            for (hour, counts) in day(source.shape, &mut draws).chunks(60).enumerate() {
                let _ = write!(text, "{number} {} {hour}", source.name);
                for count in counts {
                    let _ = write!(text, " {count}");
                }
                text.push('\n');
            }
        }
    }
    text
}
