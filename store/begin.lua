-- The beginning of both scripts: what calls Redis, and refuses what is older than the stored report.
local failed

-- call does nothing after an error. Its second argument is the key or channel.
local function call(...)
	if failed then
		return nil
	end
	local answer = redis.pcall(...)
	if type(answer) == 'table' and answer.err then
		local command, on = ...
		failed = answer.err .. ' [' .. command .. ' ' .. on .. ']'
		return nil
	end
	return answer
end

-- KEYS[1] is the hash; ARGV begins with epoch and seq.
local stored = call('HMGET', KEYS[1], 'epoch', 'seq')
if failed then
	return redis.error_reply(failed)
end
local epoch, seq = tonumber(stored[1] or nil), tonumber(stored[2] or nil)
if epoch and seq and (epoch > tonumber(ARGV[1]) or epoch == tonumber(ARGV[1]) and seq > tonumber(ARGV[2])) then
	return 0 -- the hash tells it, so that it holds even if another client has deleted the stream
end
local id = ARGV[1] .. '-' .. ARGV[2]
