-- Writes one report of one job: the stream first, because Redis refuses an id that is not greater than the last one,
-- then everything else. Returns 1 if the report is new, 2 if it was stored already (its hash and lists are written
-- again), 0 if it is stale (nothing is changed), or the error of Redis with the command and the key or channel in
-- brackets. The version is in the hash only after all else has been done: so a call that was refused in the middle is
-- refused again when it is repeated.
-- begin.lua comes before it.
--
-- KEYS  1 hash, 2 stream, 3 jobs that are active, 4 jobs that have ended
-- ARGV  1 epoch, 2 seq, 3 job, 4 JSON of the report, 5 ms since 1970, 6 ms until the job's keys expire (0: never, the
--       job is active), 7 entries of the stream, 8 and 9 channels, 10 entries of the ended jobs,
--       11... fields and values of the hash
local told = epoch == tonumber(ARGV[1]) and seq == tonumber(ARGV[2])

call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], id, 'data', ARGV[4])
if failed then
	if not string.find(failed, 'equal or smaller', 1, true) then
		return redis.error_reply(failed)
	end
	failed = nil
	local last = call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
	if not failed and (not last[1] or last[1][1] ~= id) then
		return 0
	end
end

if tonumber(ARGV[6]) > 0 then
	call('ZREM', KEYS[3], ARGV[3])
	call('ZADD', KEYS[4], ARGV[5], ARGV[3])
	call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - tonumber(ARGV[10]))
	call('PEXPIRE', KEYS[2], ARGV[6])
else
	call('ZREM', KEYS[4], ARGV[3])
	call('ZADD', KEYS[3], ARGV[5], ARGV[3])
	call('PERSIST', KEYS[2])
end
if not told then
	call('PUBLISH', ARGV[8], ARGV[4])
	call('PUBLISH', ARGV[9], ARGV[4])
end
call('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', ARGV[2], 'json', ARGV[4], unpack(ARGV, 11))
if tonumber(ARGV[6]) > 0 then
	call('PEXPIRE', KEYS[1], ARGV[6])
else
	call('PERSIST', KEYS[1])
end
if failed then
	return redis.error_reply(failed)
end
return told and 2 or 1
