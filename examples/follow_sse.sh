#!/usr/bin/env bash
# Follows all jobs of a vmferry daemon over its event stream, with curl and jq.
#
#     VMFERRY_SERVER=http://127.0.0.1:8081 ./follow_sse.sh
set -euo pipefail
server=${VMFERRY_SERVER:-http://127.0.0.1:8081}

# Turns reports, {"jobs": [all reports]} and deletions into lines. It keeps the version and phases of each job.
changes='
  def forget($id): if .known[$id] then .out += ["\($id) deleted"] | del(.known[$id]) else . end;
  def take($new): $new.job_id as $id | .known[$id] as $old
    | if $old and [$new.epoch, $new.seq] <= $old.version then .  # not newer than what is known
      elif $new.deleted then forget($id)
      else [$new.phases[] | {name, round, started_at}] as $stays
      | .out += [($stays - ($old.stays // []))[] | "\($id) entered \(.name) \(.round)"]
      | .out += [$new | "\($id) \(.status) \(.phase) \(.round) \(.bytes_transferred) \(.overall_percent)"]
      | .known[$id] = {version: [$new.epoch, $new.seq], stays: $stays}
      end;
  foreach inputs as $in ({known: {}}; .out = []
    | if $in.jobs
      then reduce $in.jobs[] as $new (.; take($new))
      | reduce ((.known | keys) - [$in.jobs[].job_id])[] as $id (.; forget($id))  # what is missing was deleted
      else take($in) end; .out[])'

connect() { # curl gives up after 10 s without a byte; the daemon sends at least the time every 2 s
	{
		[ -z "$last" ] || printf 'header = "Last-Event-ID: %s"\n' "$last"
		[ -z "${VMFERRY_TOKEN_FILE-}" ] || printf 'header = "Authorization: Bearer %s"\n' "$(cat "$VMFERRY_TOKEN_FILE")"
	} | curl -sSN --fail-with-body --connect-timeout 10 --speed-limit 1 --speed-time 10 -K - \
		"$server/api/v1/events" 2>&1 || true
}

follow() {
	local last='' id='' event='' line state=stale
	while :; do
		while IFS= read -r line; do
			case $line in
			'id: '*) id=${line#id: } ;;
			'event: '*) event=${line#event: } ;;
			'data: '*)
				case $event in snapshot | progress | deleted) printf '%s\n' "${line#data: }" ;; esac
				[ -z "$id" ] || last=$id # not before the event is whole
				[ "$state" = live ] || { state=live && echo live >&2; }
				id='' event=''
				;;
			'' | 'retry: '*) ;;
			*) echo "$line" >&2 ;; # an error of curl, or why the daemon refuses
			esac
		done < <(connect)
		[ "$state" = stale ] || { state=stale && echo 'stale: the stream has ended' >&2; }
		sleep 1
	done
}

follow | jq -nr --unbuffered "$changes"
