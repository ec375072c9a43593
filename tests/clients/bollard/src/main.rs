//! bollard, whose types are generated from Docker's API description: every answer has to fit them.
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, HostConfig, NetworkCreateRequest, VolumeCreateOptions};
use bollard::query_parameters::*;
use bollard::Docker;
use futures_util::{StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Fallible<()> {
    let docker = Docker::connect_with_local_defaults()?.negotiate_version().await?;
    docker.info().await?;
    docker.df(None::<DataUsageOptions>).await?;
    docker.list_images(None::<ListImagesOptions>).await?;
    docker.inspect_image("busybox").await?;
    docker.image_history("busybox").await?;
    let network = NetworkCreateRequest { name: "bollard".into(), ..Default::default() };
    docker.create_network(network).await?;
    for one in docker.list_networks(None::<ListNetworksOptions>).await? {
        docker.inspect_network(&one.id.unwrap(), None::<InspectNetworkOptions>).await?;
    }
    let volume = VolumeCreateOptions { name: Some("bollard".into()), ..Default::default() };
    docker.create_volume(volume).await?;
    docker.list_volumes(None::<ListVolumesOptions>).await?;
    docker.inspect_volume("bollard").await?;

    let body = ContainerCreateBody {
        image: Some("busybox".into()),
        cmd: Some(vec!["sh".into(), "-c".into(), "read line; echo got $line; sleep 1000".into()]),
        open_stdin: Some(true),
        host_config: Some(HostConfig { network_mode: Some("bollard".into()), ..Default::default() }),
        ..Default::default()
    };
    let options = CreateContainerOptionsBuilder::default().name("bollard").build();
    docker.create_container(Some(options), body).await?;
    docker.inspect_container("bollard", None::<InspectContainerOptions>).await?;
    let attach = AttachContainerOptionsBuilder::default().stdin(true).stdout(true).stderr(true).stream(true).build();
    let mut attached = docker.attach_container("bollard", Some(attach)).await?;
    docker.start_container("bollard", None::<StartContainerOptions>).await?;
    attached.input.write_all(b"words\n").await?;
    let answer = attached.output.next().await.ok_or("attach ended")??;
    assert_eq!(answer.to_string(), "got words\n");

    docker.inspect_container("bollard", None::<InspectContainerOptions>).await?;
    docker.list_containers(None::<ListContainersOptions>).await?;
    docker.top_processes("bollard", None::<TopOptions>).await?;
    let stats = StatsOptionsBuilder::default().stream(false).build();
    docker.stats("bollard", Some(stats)).try_collect::<Vec<_>>().await?;
    let exec = CreateExecOptions {
        cmd: Some(vec!["sh", "-c", "echo out; echo err >&2; exit 3"]),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..Default::default()
    };
    let id = docker.create_exec("bollard", exec).await?.id;
    let mut heard = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = docker.start_exec(&id, None).await? {
        while let Some(one) = output.next().await {
            heard.push(one?.to_string());
        }
    }
    heard.sort();
    assert_eq!(heard, ["err\n", "out\n"]);
    assert_eq!(docker.inspect_exec(&id).await?.exit_code, Some(3));
    let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let lines: Vec<_> = docker.logs("bollard", Some(logs)).try_collect().await?;
    assert_eq!(lines.iter().map(|one| one.to_string()).collect::<String>(), "got words\n");
    docker.container_changes("bollard").await?;
    docker.kill_container("bollard", None::<KillContainerOptions>).await?;
    let mut wait = docker.wait_container("bollard", None::<WaitContainerOptions>);
    match wait.next().await {
        Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => assert_eq!(code, 137),
        other => panic!("wait: {other:?}"),
    }
    docker.prune_containers(None::<PruneContainersOptions>).await?;
    docker.prune_networks(None::<PruneNetworksOptions>).await?;
    docker.prune_images(None::<PruneImagesOptions>).await?;
    docker.remove_volume("bollard", None::<RemoveVolumeOptions>).await?;
    println!("bollard: all answers fit");
    Ok(())
}
