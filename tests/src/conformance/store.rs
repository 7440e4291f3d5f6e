//! What every store does.
//!
//! Each case gets an empty store of its own. Nothing here assumes that this process is the only one that uses it.

use std::sync::Arc;

use shared::ports::Store;

pub mod given;
mod keys;
mod leases;
mod lifecycle;
mod lists;
mod orphans;
mod output;
mod prune;
mod roles;
mod stdin;
mod submit;
mod sweeps;
mod tenants;
mod watch;

use self::given::Given;

macro_rules! cases {
    ($make:ident: $($group:ident { $($case:ident),+ $(,)? })+) => {
        $($(
            $group::$case(&Given::new($make().await)).await;
        )+)+
    };
}

/// Runs the whole suite; `make` gives an empty store each time.
pub async fn suite<M: AsyncFn() -> Arc<dyn Store>>(make: M) {
    cases! { make:
        submit {
            a_job_is_there_when_its_submit_returned,
            what_an_environment_does_not_allow_is_refused_and_leaves_nothing,
            racers_on_one_key_make_one_job,
            a_key_belongs_to_its_request_scope_and_content,
            a_replay_answers_the_job_as_it_is,
            a_refused_request_leaves_its_key_unused,
            racing_creates_of_one_environment_make_one_job,
            the_same_job_submitted_again_is_one_job,
        }
        lifecycle {
            what_waits_becomes_runnable_when_its_environment_runs,
            what_waits_fails_when_its_create_fails,
            a_stop_ends_what_runs_and_what_waits,
            a_start_is_a_new_incarnation,
            a_delete_overtakes_a_create_that_waits,
            a_delete_waits_for_a_create_that_runs,
            a_delete_cancels_what_runs_and_leaves_the_record,
            a_create_after_a_delete_is_a_new_life,
            what_workers_see_counts_for_its_own_incarnation,
            a_cancelled_lifecycle_job_leaves_nobody_waiting,
            a_failed_delete_can_be_repeated,
            an_environment_is_changed_until_it_goes,
        }
        leases {
            one_of_many_workers_gets_a_job,
            a_takeover_needs_the_fence_it_replaces,
            one_of_many_takeovers_gets_a_job,
            an_old_fence_changes_nothing,
            one_of_many_ends_counts,
            what_has_ended_stays_as_it_is,
            what_is_not_there_cannot_be_worked_on,
            a_job_given_back_is_free_at_once,
            a_takeover_keeps_the_incarnation,
            a_job_that_never_began_begins_in_whatever_start_is_there,
            of_several_cancels_the_first_counts,
            all_of_a_completion_is_one_commit,
        }
        output {
            every_window_is_the_log_cut_at_its_offsets,
            dropped_bytes_are_gaps,
            what_is_there_already_stays,
            a_log_larger_than_a_window_is_read_window_by_window,
            the_end_of_a_job_comes_after_its_last_byte,
        }
        stdin {
            input_is_a_log_that_goes_as_it_is_taken,
            a_command_that_does_not_read_takes_only_so_much,
            input_is_taken_under_a_lease_alone,
            what_takes_no_input_says_why,
            a_write_that_is_repeated_after_the_end_is_known,
            racing_writes_at_one_offset_are_one_write,
            input_wakes,
        }
        lists {
            pages_of_every_size_hold_every_job_once,
            rows_that_come_while_pages_are_read_double_nothing,
            jobs_are_found_by_each_condition,
            jobs_and_environments_are_found_by_their_labels,
            environments_are_listed_by_id_and_phase,
            artifacts_are_listed_newest_first,
            a_token_of_another_list_is_refused,
        }
        sweeps {
            runnable_jobs_are_listed_oldest_first_by_lane,
            held_jobs_are_listed_with_their_owner_and_fence,
            open_jobs_are_those_that_have_not_ended,
            environments_are_walked_across_tenants,
            what_has_lived_its_time_is_found_until_it_goes,
            activity_is_what_is_open_and_what_ended_last,
            a_condition_is_looked_at_in_the_commit,
            counts_are_of_what_is_open,
        }
        watch {
            every_change_of_a_job_wakes,
            no_wake_is_missed,
            what_others_cause_wakes_too,
        }
        roles {
            the_instance_stays,
            heartbeats_change_and_go,
            a_role_changes_hands_by_compare_and_set,
            one_of_many_gets_a_role,
        }
        orphans {
            the_list_is_what_was_noted_last,
        }
        keys {
            a_key_is_there_until_it_is_replaced_or_revoked,
            keys_of_one_name_are_each_tenants_own,
        }
        prune {
            what_is_past_its_time_goes_with_its_output,
            a_prune_is_bounded,
            keys_are_forgotten,
            the_create_of_a_living_environment_stays,
            a_deleted_environment_goes_after_its_last_job,
        }
        tenants {
            tenants_never_see_each_other,
        }
    }
}
