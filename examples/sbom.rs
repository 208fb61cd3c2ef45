//! Prints a software bill of materials of the binary, as CycloneDX 1.5: `make sbom`. The crates are those that cargo links
//! into it on Linux; the C libraries that some of them bundle, which no tool for crates sees, are listed here, with the
//! versions that the crates' own sources name.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let metadata = metadata()?;
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), package)).collect();
    let root = text(&metadata["resolve"]["root"]);
    let linked = linked(&metadata, root);
    let program = packages.get(root).ok_or("cargo names no root package")?;
    let mut components = Vec::new();
    for id in linked.iter().filter(|id| **id != root) {
        let package = packages.get(id).ok_or_else(|| format!("cargo does not describe {id}"))?;
        components.push(component(package));
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let folder = Path::new(text(&package["manifest_path"])).parent().ok_or("a manifest lies in a folder")?;
        for (library, version, licence) in bundled(name, version, folder)? {
            components.push(json!({
                "type": "library", "name": library, "version": version, "purl": format!("pkg:generic/{library}@{version}"),
                "licenses": [{"expression": licence}], "description": format!("C library, bundled by the crate {name}"),
            }));
        }
    }
    components.push(json!({
        "type": "library", "name": "openssl", "purl": "pkg:generic/openssl", "licenses": [{"expression": "Apache-2.0"}],
        "description": "C library of the system that the program runs on, used by librdkafka; not in the binary",
    }));
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {"component": component(program)}, "components": components,
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

fn metadata() -> Result<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"];
    let output = Command::new(cargo).args(arguments).output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The packages that are reached by dependencies of the usual kind: not by those of tests and of builds.
fn linked<'a>(metadata: &'a Value, root: &'a str) -> BTreeSet<&'a str> {
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), node)).collect();
    let mut found = BTreeSet::new();
    let mut waiting = vec![root];
    while let Some(id) = waiting.pop() {
        if !found.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).map_or(&[][..], |node| list(&node["deps"])) {
            if list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                waiting.push(text(&dependency["pkg"]));
            }
        }
    }
    found
}

fn component(package: &Value) -> Value {
    let (name, version) = (text(&package["name"]), text(&package["version"]));
    let mut component = json!({
        "type": "library", "name": name, "version": version,
        "purl": format!("pkg:cargo/{name}@{}", version.replace('+', "%2B")),
    });
    if let Some(licence) = package["license"].as_str() {
        // The older crates' way to write OR.
        component["licenses"] = json!([{"expression": licence.replace('/', " OR ")}]);
    }
    component
}

/// The C libraries in a crate, each with its version and licence.
fn bundled(name: &str, version: &str, folder: &Path) -> Result<Vec<(&'static str, String, &'static str)>> {
    let defined = |file: &str, names: &[&str]| -> Result<String> {
        let path = folder.join(file);
        let source = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let value = |name: &&str| {
            let line = source.lines().find_map(|line| line.strip_prefix("#define ")?.strip_prefix(*name));
            let word = line.and_then(|line| line.split_whitespace().next()).map(|word| word.trim_matches('"'));
            word.map(str::to_owned).ok_or_else(|| format!("{} does not define {name}", path.display()))
        };
        Ok(names.iter().map(value).collect::<std::result::Result<Vec<_>, _>>()?.join("."))
    };
    let after = |mark: &str| version.split_once(mark).map(|(_, rest)| rest.to_owned());
    let of_librdkafka = |library, version, licence| (library, version, licence);
    Ok(match name {
        "rdkafka-sys" => {
            let own = after("+").ok_or("rdkafka-sys names librdkafka's version")?;
            let lz4 = ["LZ4_VERSION_MAJOR", "LZ4_VERSION_MINOR", "LZ4_VERSION_RELEASE"];
            let cjson = ["CJSON_VERSION_MAJOR", "CJSON_VERSION_MINOR", "CJSON_VERSION_PATCH"];
            // The others are single files, changed by librdkafka and without their own version.
            let part = format!("of-librdkafka-{own}");
            let single = |library, licence| of_librdkafka(library, part.clone(), licence);
            vec![
                of_librdkafka("lz4", defined("librdkafka/src/lz4.h", &lz4)?, "BSD-2-Clause"),
                of_librdkafka("cjson", defined("librdkafka/src/cJSON.h", &cjson)?, "MIT"),
                single("crc32c-mark-adler", "Zlib"),
                single("fnv1a", "Zlib"),
                single("hdrhistogram", "MIT"),
                single("murmur2", "MIT"),
                single("nanopb", "Zlib"),
                single("opentelemetry-proto", "Apache-2.0"),
                single("pycrc", "MIT"),
                single("queue", "BSD-3-Clause"),
                single("regexp", "LicenseRef-public-domain"),
                single("snappy", "BSD-3-Clause"),
                single("tinycthread", "Zlib"),
                ("librdkafka", own, "BSD-2-Clause"),
            ]
        }
        "libz-sys" => vec![("zlib", defined("src/zlib/zlib.h", &["ZLIB_VERSION"])?, "Zlib")],
        "zstd-sys" => {
            vec![("zstd", after("zstd.").ok_or("zstd-sys names zstd's version")?, "BSD-3-Clause OR GPL-2.0-only")]
        }
        "ring" => vec![("boringssl-fipsmodule", format!("of-ring-{version}"), "Apache-2.0 AND ISC")],
        _ => Vec::new(),
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
