//! The OpenAPI document, made of the routes themselves.

use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::response::Response;
use utoipa::openapi::schema::AnyOf;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, ResponseBuilder, Schema};

use crate::legacy;
use crate::router::{guarded, open};

/// Schemas of which a value may fit several parts, since readers must tolerate unknown fields.
const OVERLAPPING: [&str; 2] = ["JobInput", "JobResult"];

/// What every route that needs a key may answer beside its own.
const COMMON: [(&str, &str); 2] = [
    ("401", "No key, or one that opens nothing"),
    ("503", "A backend is down, or how it ended cannot be known"),
];

/// What every route that reads something of its caller may answer beside that.
const OF_INPUT: [(&str, &str); 1] = [(
    "422",
    "Something in the path, the parameters, the headers or the body cannot be taken",
)];

/// What every route that reads JSON may answer besides.
const OF_JSON: [(&str, &str); 3] = [
    ("400", "The body is not JSON, or did not come whole"),
    ("413", "The body is larger than a request may be"),
    ("415", "The body is said to be something else than JSON"),
];

/// The document that describes every route.
pub fn openapi() -> OpenApi {
    let mut document = About::openapi();
    document.merge(open().into_openapi());
    let mut guarded = guarded().into_openapi();
    for (path, item) in &mut guarded.paths.paths {
        add_common(path, item);
    }
    document.merge(guarded);
    let components = document.components.get_or_insert_default();
    for name in OVERLAPPING {
        if let Some(RefOr::T(schema)) = components.schemas.get_mut(name) {
            any_of(schema);
        }
    }
    components.security_schemes.insert(
        "key".to_owned(),
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)).into(),
    );
    document
}

fn add_common(path: &str, item: &mut PathItem) {
    let operations = [
        &mut item.get,
        &mut item.put,
        &mut item.post,
        &mut item.delete,
        &mut item.patch,
        &mut item.head,
    ];
    for operation in operations.into_iter().flatten() {
        let mut added: Vec<_> = COMMON.into();
        if operation.parameters.is_some() || operation.request_body.is_some() {
            added.extend(OF_INPUT);
        }
        if reads_json(operation) {
            added.extend(OF_JSON);
        }
        let responses = &mut operation.responses.responses;
        for (status, description) in added {
            responses
                .entry(status.to_owned())
                .or_insert_with(|| RefOr::T(error(path, description)));
        }
    }
}

fn reads_json(operation: &Operation) -> bool {
    let body = match &operation.request_body {
        Some(RefOr::T(body)) => Some(body),
        Some(RefOr::Ref(_)) | None => None,
    };
    body.is_some_and(|body| body.content.contains_key("application/json"))
}

fn error(path: &str, description: &str) -> Response {
    let (schema, media_type) = if legacy::is_original(path) {
        ("Detail", "application/json")
    } else {
        ("Problem", "application/problem+json")
    };
    ResponseBuilder::new()
        .description(description)
        .content(
            media_type,
            Content::new(Some(Ref::from_schema_name(schema))),
        )
        .build()
}

fn any_of(schema: &mut Schema) {
    if let Schema::OneOf(one_of) = schema {
        let mut any_of = AnyOf::new();
        any_of.items = std::mem::take(&mut one_of.items);
        any_of.description = one_of.description.take();
        *schema = Schema::AnyOf(any_of);
    }
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Environment Manager",
        description = "Isolated environments for agents, and jobs in them.",
    ),
    security(("key" = [])),
    tags(
        (name = "environments", description = "Isolated places to run commands in"),
        (name = "jobs", description = "Commands and other work, and their output"),
        (name = "files", description = "Files in an environment"),
        (name = "artifacts", description = "Files that were copied out of environments"),
        (name = "original", description = "The original endpoints; errors are {\"detail\": …}"),
        (name = "service", description = "The service itself"),
    )
)]
struct About;
