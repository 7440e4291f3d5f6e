//! What every runtime does.
//!
//! Each case gets a [`Bed`] of its own and reaches into its environments only as the worker does: over the runner's
//! protocol on a connection that [`shared::ports::Runtime::dial`] gave. The image that a bed names has a shell and the
//! usual small tools.

mod channel;
pub mod given;
mod holdings;
mod inside;
mod lifecycle;
mod limits;
mod races;

pub use self::given::{Bed, Does, Given};

macro_rules! cases {
    ($make:ident: $($group:ident { $($case:ident),+ $(,)? })+) => {
        $($({
            let given = Given::new($make().await);
            $group::$case(&given).await;
            given.clear().await;
        })+)+
    };
}

/// Runs the whole suite; `make` gives a place without environments each time.
pub async fn suite<M: AsyncFn() -> Bed>(make: M) {
    cases! { make:
        lifecycle {
            a_create_is_repeatable,
            a_volume_outlives_stop_and_start,
            what_the_runner_kept_outlives_stop_and_start,
            a_start_needs_a_volume,
            a_start_of_what_runs_changes_nothing,
            a_delete_leaves_nothing,
            a_kill_is_at_once_and_keeps_the_volume,
            a_stop_does_not_wait_for_those_who_ignore_it,
            what_was_never_there_can_be_stopped_killed_and_deleted,
            what_cannot_be_had_is_refused,
        }
        holdings {
            only_the_own_instance_is_listed,
            what_is_of_another_instance_is_left_alone,
        }
        channel {
            connections_are_independent,
            a_stopped_environment_cannot_be_dialled,
        }
        inside {
            a_command_is_an_ordinary_user_in_the_volume,
            a_command_has_no_rights_beyond_its_user,
            nothing_of_the_host_is_visible,
            environments_do_not_see_each_other,
        }
        limits {
            memory_is_limited_and_the_runner_survives,
            processes_are_limited_and_the_runner_survives,
            a_job_is_killed_with_its_whole_tree,
        }
        races {
            ten_environments_are_made_at_once,
            a_delete_during_a_create_leaves_nothing,
            starts_and_stops_of_one_environment_take_turns,
        }
    }
}
