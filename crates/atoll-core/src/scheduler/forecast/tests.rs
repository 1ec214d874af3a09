use proptest::prelude::*;

use super::*;
use crate::scheduler::amount::Dimension;

const SIZE: Amount = Amount::new(1_000, 1_024, 512, 0);

fn key(team: &str) -> Key {
    Key {
        team: team.parse().unwrap(),
        template: "base".parse().unwrap(),
    }
}

/// The second of a minute, from the beginning of a day.
fn at(minute: u64) -> Timestamp {
    Timestamp::from_micros(0).saturating_add(Duration::from_secs(60 * (minute + 1_440 * 1_000)))
}

fn fleet() -> Total {
    Total::times(Amount::new(32_000, 65_536, 100_000, 0), 10)
}

/// Lets so many come at each minute, each of which lives for ten.
fn live(forecast: &mut Forecast, minutes: std::ops::Range<u64>, count: impl Fn(u64) -> u32) {
    for minute in minutes {
        forecast.advance(at(minute));
        for _ in 0..count(minute) {
            forecast.arrived(&key("a"), SIZE, at(minute));
        }
        for _ in 0..minute.checked_sub(10).map_or(0, &count) {
            forecast.ended(&key("a"), Duration::from_secs(600));
        }
    }
}

/// Twenty-eight come at once at nine o'clock, and one every ten minutes otherwise.
fn burst_at_nine(minute: u64) -> u32 {
    match minute % 1_440 {
        540 => 28,
        other if other.is_multiple_of(10) => 1,
        _ => 0,
    }
}

#[test]
fn a_burst_at_the_same_time_of_day_is_held_for_in_time_and_released_after_it() {
    let mut forecast = Forecast::new(Config::default());
    let held = |forecast: &Forecast| {
        let reserve = forecast.plan(fleet(), |_| fleet());
        reserve.holds().map(|(_, hold)| hold.count).sum::<u32>()
    };
    live(&mut forecast, 0..3 * 1_440 + 300, burst_at_nine);
    assert!(held(&forecast) <= 5, "in the night: {}", held(&forecast));
    live(
        &mut forecast,
        3 * 1_440 + 300..3 * 1_440 + 539,
        burst_at_nine,
    );
    forecast.advance(at(3 * 1_440 + 539));
    assert!(held(&forecast) >= 25, "before it: {}", held(&forecast));
    // This time it does not come.
    for minute in 3 * 1_440 + 539..3 * 1_440 + 600 {
        forecast.advance(at(minute));
    }
    assert!(held(&forecast) <= 5, "an hour later: {}", held(&forecast));
}

#[test]
fn a_change_that_no_profile_knows_is_followed_within_minutes() {
    let mut forecast = Forecast::new(Config::default());
    live(&mut forecast, 0..2 * 1_440, |_| 2);
    let before = forecast.outlook(&key("a")).unwrap();
    assert!((before.expected - 10.0).abs() < 1.0, "{before:?}");
    assert!(before.low < before.expected && before.expected < before.high);
    live(&mut forecast, 2 * 1_440..2 * 1_440 + 20, |_| 10);
    let after = forecast.outlook(&key("a")).unwrap();
    assert!(after.expected > 35.0, "{after:?}");
    assert!(after.error > before.error);
    assert_eq!(after.season.map(f64::round), Some(2.0));
    assert_eq!(after.lifetime, Some(Duration::from_secs(600)));
    assert_eq!(after.size, SIZE);
}

#[test]
fn a_pool_covers_what_all_teams_ask_for_in_the_time_of_making_one() {
    let mut forecast = Forecast::new(Config::default());
    for minute in 0..120 {
        for team in ["a", "b", "c"] {
            forecast.arrived(&key(team), SIZE, at(minute));
        }
    }
    let template = "base".parse().unwrap();
    let pool = forecast.pool(&template, 2);
    assert!((6..=14).contains(&pool), "{pool}");
    assert_eq!(forecast.pool(&"other".parse().unwrap(), 2), 0);
}

#[test]
fn what_stood_still_is_not_taken_for_silence_and_time_does_not_go_back() {
    let mut forecast = Forecast::new(Config::default());
    live(&mut forecast, 0..1_440, |_| 3);
    assert!(!forecast.advance(at(1_200)));
    let level = forecast.outlook(&key("a")).unwrap().level;
    assert!(forecast.advance(at(1_440 + 300)));
    let after = forecast.outlook(&key("a")).unwrap();
    assert!((after.level - level).abs() < f64::EPSILON);
    assert_eq!(after.season.map(f64::round), Some(3.0));
}

#[test]
fn series_are_bounded_and_the_one_unused_for_longest_goes() {
    let mut forecast = Forecast::new(Config {
        series_max: 3,
        ..Config::default()
    });
    for (minute, team) in (0..).zip(["a", "b", "c", "a", "d", "e"]) {
        forecast.arrived(&key(team), SIZE, at(minute));
    }
    let teams: Vec<_> = forecast.keys().map(|key| key.team.to_string()).collect();
    assert_eq!(teams, ["a", "d", "e"]);
}

#[test]
fn what_was_saved_forecasts_the_same_days() {
    let mut forecast = Forecast::new(Config::default());
    live(&mut forecast, 0..3 * 1_440 + 500, burst_at_nine);
    let saved: Vec<_> = forecast
        .save()
        .map(|(key, saved)| (key.clone(), saved))
        .collect();
    let mut again = Forecast::new(Config::default());
    again.advance(at(3 * 1_440 + 538));
    for (key, saved) in &saved {
        assert!(again.restore(key.clone(), saved));
    }
    let reserve = again.plan(fleet(), |_| fleet());
    assert!(reserve.holds().next().unwrap().1.count >= 25);
    let mut broken = saved[0].1.clone();
    broken.profile.pop();
    assert!(!again.restore(key("x"), &broken));
    broken.profile.push(f32::NAN);
    assert!(!again.restore(key("x"), &broken));
}

#[test]
fn nothing_is_held_beyond_a_teams_share() {
    let mut forecast = Forecast::new(Config::default());
    live(&mut forecast, 0..120, |minute| {
        u32::try_from(minute / 10).unwrap()
    });
    let most = forecast.plan(fleet(), |_| fleet());
    assert!(most.total().holds(SIZE) > 3);
    let room = Total::times(SIZE, 3);
    assert_eq!(forecast.plan(fleet(), |_| room).total(), room);
    assert_eq!(forecast.plan(fleet(), |_| Total::ZERO), Reserve::default());
}

#[test]
fn what_is_held_is_closed_to_who_has_its_share_and_used_up_one_by_one() {
    let hold = Hold {
        count: 2,
        each: SIZE,
    };
    let mut reserve = Reserve::new([(key("a"), hold)], fleet());
    let free = Total::times(SIZE, 2);
    assert!(reserve.ask(&key("a"), SIZE, free, Total::ZERO).is_ok());
    let held = reserve.ask(&key("b"), SIZE, free, Total::ZERO).unwrap_err();
    let text = "needs 1 cores of cpu; of 2 cores free in the fleet, 2 cores are held for arrivals \
        that are expected of others";
    assert_eq!(held.to_string(), text);
    // Who is below its share does not stand back.
    assert!(reserve.ask(&key("b"), SIZE, free, SIZE.into()).is_ok());
    reserve.take(&key("a"));
    assert_eq!(reserve.total(), SIZE.into());
    assert!(reserve.ask(&key("b"), SIZE, free, Total::ZERO).is_ok());
    reserve.take(&key("a"));
    reserve.take(&key("a"));
    assert_eq!(reserve, Reserve::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, no more is held than the stated part of the fleet, everything is finite,
    /// and the same history gives the same.
    #[test]
    fn never_more_is_held_than_stated(
        counts in prop::collection::vec((0_u32..60, 1_u32..9_000, 1_u32..40_000), 40..200),
        percent in 0_u32..80,
    ) {
        let run = || {
            let mut forecast = Forecast::new(Config {
                reserve_percent: percent,
                ..Config::default()
            });
            for (minute, (count, cpu, memory)) in (0..).zip(&counts) {
                for turn in 0..*count {
                    let team = ["a", "b", "c"][turn as usize % 3];
                    let amount = Amount::new(*cpu, *memory, 10, 0);
                    forecast.arrived(&key(team), amount, at(minute));
                }
                if let Some(team) = ["a", "b"].get(*count as usize % 3) {
                    forecast.ended(&key(team), Duration::from_secs(u64::from(*memory)));
                }
            }
            let outlooks: Vec<_> = forecast.keys().map(|key| forecast.outlook(key)).collect();
            (forecast.plan(fleet(), |_| fleet()), outlooks)
        };
        let (reserve, outlooks) = run();
        let limit = fleet().percent(percent.min(RESERVE_PERCENT_MAX));
        prop_assert!(reserve.total().fits_in(limit));
        let sum = reserve.holds().fold(Total::ZERO, |sum, (_, hold)| {
            sum.saturating_add(Total::times(hold.each, hold.count))
        });
        prop_assert_eq!(sum, reserve.total());
        for outlook in outlooks.iter().flatten() {
            prop_assert!(outlook.high.is_finite() && outlook.error.is_finite());
            prop_assert!(outlook.low >= 0.0 && outlook.expected >= outlook.low);
        }
        prop_assert_eq!(run(), (reserve, outlooks));
    }

    /// With a limit for each dimension, as much as fits of each is held in proportion.
    #[test]
    fn a_limit_cuts_all_alike(counts in prop::collection::vec(0_u32..200, 1..30)) {
        let needs = (0..).zip(&counts).map(|(number, count): (u32, _)| {
            let hold = Hold { count: *count, each: SIZE };
            (key(&format!("t{number:02}")), hold)
        });
        let limit = fleet().percent(10);
        let reserve = Reserve::new(needs, limit);
        let fits = limit.get(Dimension::Cpu) / u64::from(SIZE.get(Dimension::Cpu));
        let wanted: u64 = counts.iter().copied().map(u64::from).sum();
        let held: u64 = reserve.holds().map(|(_, hold)| u64::from(hold.count)).sum();
        prop_assert!(held <= wanted.min(fits));
        prop_assert!(held + 2 >= wanted.min(fits), "{held} of {wanted}, {fits} fit");
    }
}
