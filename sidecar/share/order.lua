-- The order of segments' names, for the scripts that need it: this stands before them.
-- Lua's own "<" goes by the engine's locale.
local function comes_before(one, other)
    for i = 1, math.min(#one, #other) do
        local a, b = string.byte(one, i), string.byte(other, i)
        if a ~= b then
            return a < b
        end
    end
    return #one < #other
end

