//! The parts of the benchmark, one after the other, and their figures.

use std::path::Path;

use clap::ValueEnum;

use super::arguments::{Arguments, Part};
use super::compared_drain::compared_drain;
use super::drain::{check_points, drain};
use super::limits::{self, Files};
use super::live;
use super::once_each::drain_once_each;
use super::refused::drain_with_check;
use super::replay::replay;
use super::report::{Report, rounded};
use super::throughput::drain_on_throughput;
use super::topics::{publish, with_own_topics};
use crate::cli::{Failure, print_line};
use crate::config::{Config, OnDuplicate};
use crate::database::schema;
use crate::database::scratch::ScratchDatabase;

/// Rate at which messages are sent, besides half of the drain's.
const LIVE_POINTS_A_SECOND: f64 = 20_000.0;

/// The state that the parts share, and results that later ones need.
pub(super) struct Run<'a> {
    bench: &'a Config,
    file: Option<&'a Path>,
    arguments: &'a Arguments,
    scratch: &'a ScratchDatabase,
    report: &'a mut Report,
    /// `true` if the topic that most parts drain is filled.
    is_published: bool,
    /// The server's files with the same rows.
    files: Option<Files>,
    /// The rate of the drain, in points per second, if it was measured.
    drained: Option<f64>,
}

impl<'a> Run<'a> {
    /// A run in which nothing is measured yet.
    pub(super) fn new(
        bench: &'a Config,
        file: Option<&'a Path>,
        arguments: &'a Arguments,
        scratch: &'a ScratchDatabase,
        report: &'a mut Report,
    ) -> Self {
        Self { bench, file, arguments, scratch, report, is_published: false, files: None, drained: None }
    }

    /// Measures the parts that were requested, or all of them.
    pub(super) async fn measure(mut self) -> Result<(), Failure> {
        for note in schema::migrate(self.bench).await?.notes {
            print_line(note);
        }
        let points = self.arguments.total();
        self.report.add("points", "points", format!("{points:>8}"), points);
        let points = self.arguments.points_a_message();
        self.report.add("points a message", "points_a_message", format!("{points:>8}"), points);
        let only = &self.arguments.only;
        for part in Part::value_variants().iter().filter(|part| only.is_empty() || only.contains(part)) {
            self.part(*part).await?;
            self.report.done(&part.name())?;
        }
        Ok(())
    }

    async fn part(&mut self, part: Part) -> Result<(), Failure> {
        match part {
            Part::Drain => self.drain().await,
            Part::Replay => self.replay().await,
            Part::Throughput => self.throughput().await,
            Part::OnePoint => self.one_point().await,
            Part::ManySeries => self.many_series().await,
            Part::Live => self.live().await,
            Part::OnceEach => self.once_each().await,
            Part::Refused => self.refused().await,
        }
    }

    /// The configuration of the topic that most parts drain, which the first of them fills.
    async fn many(&mut self) -> Result<Config, Failure> {
        let many = with_own_topics(self.bench, "many");
        if !self.is_published {
            publish(&many, self.arguments).await?;
            self.is_published = true;
        }
        Ok(many)
    }

    async fn files(&mut self) -> Result<Files, Failure> {
        match &self.files {
            Some(files) => Ok(files.clone()),
            None => Ok(self.files.insert(Files::make(self.scratch, self.arguments).await?).clone()),
        }
    }

    /// The drain's rate, for ratios to it.
    fn compared(&self) -> Vec<(&'static str, &'static str, f64)> {
        self.drained.map(|rate| ("the drain", "drain", rate)).into_iter().collect()
    }

    async fn drain(&mut self) -> Result<(), Failure> {
        let (many, files) = (self.many().await?, self.files().await?);
        let standard =
            compared_drain(&many, self.file, self.arguments, self.scratch, &files, &limits::STANDARD).await?;
        self.drained = Some(standard.drain.points_a_second);
        standard.report(self.report, "", "", &[]);
        Ok(())
    }

    async fn replay(&mut self) -> Result<(), Failure> {
        let many = with_own_topics(self.bench, "many");
        let took = replay(&many, self.file, self.arguments, self.scratch).await?;
        let rate = self.arguments.total() as f64 / took.as_secs_f64();
        let compared = self.compared();
        self.report.rate("replay of a journal", "replay", rate, &compared);
        Ok(())
    }

    async fn throughput(&mut self) -> Result<(), Failure> {
        let (many, files) = (self.many().await?, self.files().await?);
        let (throughput, direct_compress) =
            drain_on_throughput(&many, self.file, self.arguments, self.scratch, &files).await?;
        let compared = self.compared();
        throughput.report(self.report, "throughput: ", "throughput_", &compared);
        let share = throughput.drain.compressed as f64 / self.arguments.total() as f64;
        let text = format!("{share:>8.2} of all; direct compress {direct_compress}");
        self.report.add("throughput: points in compressed rows", "throughput_compressed", text, rounded(share));
        self.files = None;
        files.remove(self.scratch).await
    }

    async fn one_point(&mut self) -> Result<(), Failure> {
        let (one, single) = (with_own_topics(self.bench, "one"), self.arguments.with_one_point());
        publish(&one, &single).await?;
        self.scratch.empty_tables().await?;
        let one = drain(&one, self.file, &single, self.scratch).await?;
        check_points(self.scratch, &single).await?;
        let compared = self.compared();
        self.report.rate("drain, 1 point a message", "one_point", one.points_a_second, &compared);
        one.report_cost(self.report, "one_point_");
        Ok(())
    }

    async fn many_series(&mut self) -> Result<(), Failure> {
        let (wide, of_many_series) = (with_own_topics(self.bench, "wide"), self.arguments.with_many_series());
        publish(&wide, &of_many_series).await?;
        let files = Files::make(self.scratch, &of_many_series).await?;
        let limits = [limits::WITHOUT_TRIGGER];
        let wide = compared_drain(&wide, self.file, &of_many_series, self.scratch, &files, &limits).await?;
        files.remove(self.scratch).await?;
        let compared = self.compared();
        wide.report(self.report, &format!("{} series: ", of_many_series.series), "many_series_", &compared);
        Ok(())
    }

    async fn live(&mut self) -> Result<(), Failure> {
        self.live_at("live", "", LIVE_POINTS_A_SECOND).await?;
        match self.drained {
            Some(rate) => self.live_at("half", ", half of the drain", rate / 2.0).await,
            None => Ok(()),
        }
    }

    async fn live_at(&mut self, key: &str, words: &str, rate: f64) -> Result<(), Failure> {
        let bench = with_own_topics(self.bench, key);
        let delays = live::measure(&bench, self.file, self.arguments, self.scratch, rate).await?;
        let [p50, p99] = [50, 99].map(|percent| delays.percentile(percent).as_millis() as u64);
        let text = format!("{p50:>8} ms from send to commit at the median");
        self.report.add(&format!("live, {rate:.0} points/s{words}"), &format!("{key}_p50_ms"), text, p50);
        self.report.add("", &format!("{key}_p99_ms"), format!("{p99:>8} ms for 99 % of the messages"), p99);
        Ok(())
    }

    async fn once_each(&mut self) -> Result<(), Failure> {
        let many = self.many().await?;
        for rule in [OnDuplicate::Ignore, OnDuplicate::Replace] {
            let drain = drain_once_each(&many, self.file, self.arguments, self.scratch, rule).await?;
            let name = rule.as_str();
            let compared = self.compared();
            self.report.rate(&format!("drain, on_duplicate {name}"), name, drain.points_a_second, &compared);
        }
        self.scratch.execute("drop the unique index", "drop index idx_time_series_data_points_unique").await?;
        Ok(())
    }

    async fn refused(&mut self) -> Result<(), Failure> {
        let many = self.many().await?;
        let clean = drain_with_check(&many, self.file, self.arguments, self.scratch, "-1").await?.points_a_second;
        let compared = self.compared();
        self.report.rate("drain with a CHECK", "check", clean, &compared);
        let refused = drain_with_check(&many, self.file, self.arguments, self.scratch, "0").await?.points_a_second;
        self.report.rate("the same, 0.01 % refused", "refused", refused, &[("that", "check", clean)]);
        Ok(())
    }
}
