//! Every route on one screen.
//!
//! The document at `/openapi.json` ([`crate::document`]) is made of the same lists, so that no route is missing in it.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::auth::{KeyRing, require_key};
use crate::layers::{observe, on_panic, render, tell_of_close};
use crate::legacy;
use crate::problem::Problem;
use crate::routes::{
    archive, artifacts, content, docs, environments, exec, files, jobs, output, service, stdin,
    stream,
};
use crate::service::{ApiDeps, App, Service};

/// Routes that need no key.
pub(crate) fn open() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(service::health)) //                                  /health
        .routes(routes!(service::ready)) //                                   /ready
        .routes(routes!(service::openapi)) //                                 /openapi.json
        .routes(routes!(docs::page)) //                                       /docs
}

/// Routes that need a key.
#[rustfmt::skip]
pub(crate) fn guarded() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        // The service's own.
        .routes(routes!(service::status)) //                                  /status
        .routes(routes!(service::metrics)) //                                 /metrics
        // Environments.
        .routes(routes!(environments::list, environments::create)) //         /v1/environments
        .routes(routes!(environments::get, environments::patch, environments::delete)) // /v1/environments/{env}
        .routes(routes!(environments::stop)) //                               /v1/environments/{env}/stop
        .routes(routes!(environments::start)) //                              /v1/environments/{env}/start
        // Files and artifacts.
        .routes(routes!(files::list, files::delete)) //                       /v1/environments/{env}/files
        .routes(routes!(files::move_file)) //                                 /v1/environments/{env}/files/move
        .routes(routes!(files::mkdir)) //                                     /v1/environments/{env}/files/mkdir
        .routes(routes!(content::get, content::head, content::put)) //        /v1/environments/{env}/files/content
        .routes(routes!(archive::get, archive::put)) //                       /v1/environments/{env}/files/archive
        .routes(routes!(artifacts::publish)) //                               /v1/environments/{env}/artifacts
        .routes(routes!(artifacts::list)) //                                  /v1/artifacts
        .routes(routes!(artifacts::get)) //                                   /v1/artifacts/{id}
        .routes(routes!(artifacts::content)) //                               /v1/artifacts/{id}/content
        // Commands and other jobs.
        .routes(routes!(exec::submit)) //                                     /v1/environments/{env}/exec
        .routes(routes!(jobs::list)) //                                       /v1/jobs
        .routes(routes!(jobs::get)) //                                        /v1/jobs/{id}
        .routes(routes!(jobs::cancel)) //                                     /v1/jobs/{id}/cancel
        .routes(routes!(output::window)) //                                   /v1/jobs/{id}/output
        .routes(routes!(stream::stream)) //                                   /v1/jobs/{id}/output/stream
        .routes(routes!(stdin::write)) //                                     /v1/jobs/{id}/stdin
        // The original endpoints.
        .routes(routes!(legacy::create_environment)) //                       /create_environment
        .routes(routes!(legacy::delete_environment)) //                       /delete_environment
        .routes(routes!(legacy::exec_in_environment)) //                      /exec_in_environment
        .routes(routes!(legacy::upload_to_environment)) //                    /upload_to_environment
        .routes(routes!(legacy::download_from_environment)) //                /download_from_environment
        .routes(routes!(legacy::list_files_in_environment)) //                /list_files_in_environment
        .routes(routes!(legacy::upload_to_cloud_and_index)) //                /upload_to_cloud_and_index
}

/// The API as a service of its own. Waiting requests wait as long as they like: [`crate::serve()`] has a signal for them.
pub fn router(deps: ApiDeps) -> Router {
    build(deps, CancellationToken::new())
}

/// The API, whose waiting requests answer at once from `stopping` on.
pub(crate) fn build(deps: ApiDeps, stopping: CancellationToken) -> Router {
    let app: App = Arc::new(Service {
        deps,
        keys: KeyRing::default(),
        stopping,
        ahead: Arc::new(Semaphore::new(stream::AHEAD)),
    });
    let (open, _) = open().split_for_parts();
    let (guarded, _) = guarded().split_for_parts();
    let guarded = guarded.route_layer(from_fn_with_state(app.clone(), require_key));
    open.merge(guarded)
        .fallback(async || Problem::not_found("there is no such route"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "the route does not take this method",
            )
        })
        .layer(CatchPanicLayer::custom(on_panic))
        .layer(from_fn(render))
        .layer(from_fn_with_state(app.clone(), observe))
        .layer(from_fn(tell_of_close))
        .with_state(app)
}
