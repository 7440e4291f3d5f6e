//! Everything that is measured, in the order of the page.

use futures::FutureExt as _;
use futures::future::LocalBoxFuture;

use crate::ground::Ground;
use crate::report::Report;
use crate::{Failure, cold, exec, files, full, idle, kubernetes, output, submit, warm};

/// The tables of the page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Section {
    OneMachine,
    Kubernetes,
    Contract,
}

impl Section {
    pub const ALL: [Self; 3] = [Self::OneMachine, Self::Kubernetes, Self::Contract];

    pub fn title(self) -> &'static str {
        match self {
            Self::OneMachine => "One machine",
            Self::Kubernetes => "Kubernetes",
            Self::Contract => "The whole contract on one machine",
        }
    }
}

type Measure = for<'a> fn(&'a Ground, &'a mut Report) -> LocalBoxFuture<'a, Result<(), Failure>>;

/// What is measured together: some rows of one table.
pub struct Part {
    pub name: &'static str,
    pub section: Section,
    pub measure: Measure,
}

impl Part {
    const fn new(name: &'static str, section: Section, measure: Measure) -> Self {
        Self {
            name,
            section,
            measure,
        }
    }

    /// Whether a name means this part: its own, or that of the runtime that it measures.
    pub fn is_called(&self, name: &str) -> bool {
        match name {
            "oci" => self.section != Section::Kubernetes,
            "kubernetes" => self.section == Section::Kubernetes,
            name => self.name == name,
        }
    }
}

pub fn is_known(name: &str) -> bool {
    PARTS.iter().any(|part| part.is_called(name))
}

use Section::{Contract, Kubernetes, OneMachine};

#[rustfmt::skip]
pub const PARTS: [Part; 14] = [
    Part::new("exec", OneMachine, |at, to| exec::measure(at, to).boxed_local()),
    Part::new("cold", OneMachine, |at, to| cold::measure(at, to).boxed_local()),
    Part::new("submit", OneMachine, |at, to| submit::measure(at, to).boxed_local()),
    Part::new("idle", OneMachine, |at, to| idle::measure(at, to).boxed_local()),
    Part::new("pod-exec", Kubernetes, |at, to| kubernetes::exec::measure(at, to).boxed_local()),
    Part::new("pod-endpoint", Kubernetes, |at, to| kubernetes::endpoint::measure(at, to).boxed_local()),
    Part::new("pod-create", Kubernetes, |at, to| kubernetes::create::measure(at, to).boxed_local()),
    Part::new("pod-files", Kubernetes, |at, to| kubernetes::files::measure(at, to).boxed_local()),
    Part::new("pod-idle", Kubernetes, |at, to| kubernetes::idle::measure(at, to).boxed_local()),
    Part::new("crun", Contract, |at, to| exec::measure_on_crun(at, to).boxed_local()),
    Part::new("warm", Contract, |at, to| warm::measure(at, to).boxed_local()),
    Part::new("files", Contract, |at, to| files::measure(at, to).boxed_local()),
    Part::new("output", Contract, |at, to| output::measure(at, to).boxed_local()),
    Part::new("full", Contract, |at, to| full::measure(at, to).boxed_local()),
];
