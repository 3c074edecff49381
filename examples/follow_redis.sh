#!/usr/bin/env bash
# Follows all jobs that vmferry writes to Redis, with redis-cli 6.2 or newer and jq.
#
#     REDIS_URL=redis://127.0.0.1:6379/0 ./follow_redis.sh
#
# A password goes into REDISCLI_AUTH. Of a time without a connection it shows the phases and the newest numbers, but no
# pause that began and ended then: the other programs read that from the streams.
set -euo pipefail
cli=(redis-cli -u "${REDIS_URL:-redis://127.0.0.1:6379/0}")

# Turns reports, {"whole": bool, "jobs": [all reports]} and deletions into lines. It keeps the version and phases of
# each job, of a deleted one the version: what comes late does not bring it back.
changes='
  def there: [.known | to_entries[] | select(.value.deleted | not).key];
  def forget($id; $version):
    if there | index($id) then .out += ["\($id) deleted"] else . end
    | .known[$id] = {version: $version, deleted: true};
  def take($new): $new.job_id as $id | .known[$id] as $old
    | if $old and [$new.epoch, $new.seq] <= $old.version then .  # not newer than what is known
      elif $new.deleted then forget($id; [$new.epoch, $new.seq])
      else [$new.phases[] | {name, round, started_at}] as $stays
      | .out += [($stays - ($old.stays // []))[] | "\($id) entered \(.name) \(.round)"]
      | .out += [$new | "\($id) \(.status) \(.phase) \(.round) \(.bytes_transferred) \(.overall_percent)"]
      | .known[$id] = {version: [$new.epoch, $new.seq], stays: $stays}
      end;
  foreach inputs as $in ({known: {}}; .out = []
    | if $in.jobs
      then reduce $in.jobs[] as $new (.; take($new))
      | if $in.whole  # else Redis may have come back empty, and what is missing may only not be there yet
        then reduce (there - [$in.jobs[].job_id])[] as $id (.; forget($id; .known[$id].version)) else . end
      else take($in) end; .out[])'

# Returns the newest report of every job, at one moment.
everything='
  local reports = {}
  for _, list in ipairs(KEYS) do
    for _, id in ipairs(redis.call("ZRANGE", list, 0, -1)) do
      local report = redis.call("HGET", "vmferry:v1:{" .. id .. "}:snap", "json")
      if report then reports[#reports + 1] = report end
    end
  end
  local whole = redis.call("EXISTS", "vmferry:v1:daemon") == 1
  return "{\"whole\":" .. tostring(whole) .. ",\"jobs\":[" .. table.concat(reports, ",") .. "]}"'

state=stale
mark() {
	[ "$state" = "$1" ] || { state=$1 && echo "$1${2-}" >&2; }
}

look() {
	local all
	all=$("${cli[@]}" EVAL "$everything" 2 vmferry:v1:jobs:active vmferry:v1:jobs:recent 2>&1) || true
	case $all in
	'{"whole":true,'*) mark live ;;
	'{"whole":false,'*) mark stale ': no daemon has written for 15 s, or Redis is being filled' ;;
	*) mark stale ": $all" && return ;; # not an answer but an error
	esac
	printf '%s\n' "$all"
}

follow() {
	local part line='' code due=-15
	while :; do
		while :; do
			code=0
			IFS= read -r -t 1 part || code=$? # above 128 after a second, with what has come of the line
			line+=$part
			if [ "$code" = 0 ]; then
				case $line in
				subscribe) due=-15 ;; # at once
				'{'*) printf '%s\n' "$line" ;; # a report, or a deletion
				esac
				line=''
			elif [ "$code" -le 128 ]; then
				break # the connection has ended
			fi
			# After all that has come, if that does not take too long.
			if [ "$SECONDS" -ge "$due" ] && { [ "$SECONDS" -ge $((due + 15)) ] || ! read -r -t 0; }; then
				look && due=$((SECONDS + 5))
			fi
		done < <("${cli[@]}" SUBSCRIBE vmferry:v1:events 2>&1)
		mark stale ': the connection to Redis has ended'
		line=''
		sleep 1
	done
}

follow | jq -nr --unbuffered "$changes"
