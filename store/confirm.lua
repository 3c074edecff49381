-- Says that Redis has the newest report of every job, for a while: the key exists so long. Returns 1, or the error of
-- Redis as publish.lua does.
--
-- KEYS  1 hash
-- ARGV  1 ms until it expires (0: it is removed), 2 time of now
local commands = {{'HSET', KEYS[1], 'at', ARGV[2]}, {'PEXPIRE', KEYS[1], ARGV[1]}}
if tonumber(ARGV[1]) == 0 then
	commands = {{'DEL', KEYS[1]}}
end
for _, command in ipairs(commands) do
	local answer = redis.pcall(unpack(command))
	if type(answer) == 'table' and answer.err then
		return redis.error_reply(answer.err .. ' [' .. command[1] .. ' ' .. command[2] .. ']')
	end
end
return 1
