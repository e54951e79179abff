#!/usr/bin/env bash
# A SLURM cluster of two nodes on loopback for tests: its own munged, slurmctld and two slurmd, with all files in one
# folder. Needs root and two packages: apt-get install slurm-wlm munge
#
#   bash tests/launch/slurm/cluster.sh start FOLDER     then: export SLURM_CONF=FOLDER/slurm.conf
#   bash tests/launch/slurm/cluster.sh stop FOLDER      ends the daemons and every job
#
# A job in the partition `urgent` preempts one in `batch`, which gets SIGTERM and one minute until it is killed and
# requeued.
set -euo pipefail
what=${1:?start or stop} folder=$(realpath -m "${2:?the cluster\'s folder}")
export SLURM_CONF=$folder/slurm.conf

ports() { # three free ports
    python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*[one.getsockname()[1] for one in held])'
}

configure() {
    local controller first second
    read -r controller first second < <(ports)
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$controller
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1,requeue_delay=1
# a requeued job waits until its old credential expires, by default after two minutes
KillWait=30
MpiDefault=none
ReturnToService=2
NodeName=n1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$first CPUs=2
NodeName=n2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$second CPUs=2
PartitionName=batch Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF
CONF
}

start() {
    mkdir -p "$folder"/{state,n1,n2}
    chmod 755 "$folder" # munge refuses folders that others may write to
    configure
    head -c 1024 /dev/urandom >"$folder/munge.key" && chmod 400 "$folder/munge.key"
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" --pid-file "$folder/munged.pid" \
        --log-file "$folder/munged.log" --seed-file "$folder/munged.seed" --num-threads 1
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF" -N n1
    slurmd -f "$SLURM_CONF" -N n2
    for _ in {1..60}; do
        [[ $(sinfo --noheader --Node --states idle --partition batch --format %N 2>/dev/null | sort -u | wc -l) == 2 ]] && return
        sleep 1
    done
    echo "the nodes don't come up: see $folder/slurmctld.log and slurmd-n1.log" >&2
    stop
    exit 1
}

stop() {
    local file pid
    scancel --user root 2>/dev/null || true
    for _ in {1..40}; do
        [[ -z $(squeue --noheader 2>/dev/null) ]] && break
        sleep 1
    done
    for file in "$folder"/slurmd-n1.pid "$folder"/slurmd-n2.pid "$folder"/slurmctld.pid "$folder"/munged.pid; do
        [[ -f $file ]] || continue
        pid=$(cat "$file")
        kill "$pid" 2>/dev/null || true
        for _ in {1..40}; do
            kill -0 "$pid" 2>/dev/null || break
            sleep 0.25
        done
        kill -9 "$pid" 2>/dev/null || true
    done
}

"$what"
