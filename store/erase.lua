-- Removes one deleted job: its hash, its entries in the lists, and its reports. Its stream keeps one entry for a while,
-- a mark that says that the job was deleted. Returns 1 if the mark is new, 2 if it was there already, 0 if there is a
-- newer report (a new job has the id: nothing is changed), or the error of Redis as publish.lua does.
-- begin.lua comes before it.
--
-- KEYS  1 hash, 2 stream, 3 jobs that are active, 4 jobs that have ended
-- ARGV  1 epoch, 2 seq, 3 job, 4 JSON of the mark, 5 ms until the mark expires, 6 and 7 channels
local told = false
call('XADD', KEYS[2], 'MAXLEN', 1, id, 'data', ARGV[4])
if failed then
	if not string.find(failed, 'equal or smaller', 1, true) then
		return redis.error_reply(failed)
	end
	failed = nil
	local last = call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
	if not failed and (not last[1] or last[1][1] ~= id) then
		return 0
	end
	told = true
end
call('PEXPIRE', KEYS[2], ARGV[5])
call('ZREM', KEYS[3], ARGV[3])
call('ZREM', KEYS[4], ARGV[3])
call('DEL', KEYS[1])
if not told then
	call('PUBLISH', ARGV[6], ARGV[4])
	call('PUBLISH', ARGV[7], ARGV[4])
end
if failed then
	return redis.error_reply(failed)
end
return told and 2 or 1
