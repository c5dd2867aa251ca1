"""Tables of facts that every reader can check: countries, chemical elements, months, weekdays, planets, animals.

What it is. Rows written by hand, one line each, as text that is read by `str.split`; every name is a `Pair` (English,
simplified Chinese) of one word each. `COUNTRIES`, `ELEMENTS`, `MONTHS`, `WEEKDAYS`, `PLANETS` and `ANIMALS` are tuples
of frozen dataclasses.

Why these rows. A fact is here only if nobody disputes it and its names are one word in both languages, so that an
answer is right or wrong and nothing between. Countries with several capitals, on two continents or named like their
capital were left out. Names translate one to one: "krona" is the Swedish one and "dollar" the Australian, because the
others are not here. Capitals differ; currencies, continents and languages may be shared.

Conventions. `language` is the official language of the whole country, or its first one. The Americas are one continent
(as the United Nations count). February has 28 days. Seasons are those of the northern hemisphere, three whole
months each. Legs are counted as zoologists do (a bird two, an insect six); "-" stands where there is no usual word.

What it leaves out. Everything that changes from year to year, and most of the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """One meaning in two languages."""

    en: str
    zh: str

    def text(self, language: str) -> str:
        return self.en if language == "en" else self.zh


@dataclass(frozen=True)
class Country:
    name: Pair
    capital: Pair
    currency: Pair
    continent: Pair
    language: Pair


@dataclass(frozen=True)
class Element:
    name: Pair
    symbol: str
    number: int


@dataclass(frozen=True)
class Month:
    name: Pair
    number: int
    days: int
    season: Pair


@dataclass(frozen=True)
class Weekday:
    name: Pair
    weekend: bool


@dataclass(frozen=True)
class Planet:
    """`position` counts outwards from the sun, Mercury is 1."""

    name: Pair
    position: int


@dataclass(frozen=True)
class Animal:
    """`young` and `sound` are None where there is no usual word, `legs` where people would argue."""

    name: Pair
    plural: str
    young: Pair | None
    sound: Pair | None
    legs: int | None
    group: Pair


_COUNTRIES = """
France      法国         Paris        巴黎         euro     欧元       Europe   欧洲   French      法语
Germany     德国         Berlin       柏林         euro     欧元       Europe   欧洲   German      德语
Italy       意大利       Rome         罗马         euro     欧元       Europe   欧洲   Italian     意大利语
Spain       西班牙       Madrid       马德里       euro     欧元       Europe   欧洲   Spanish     西班牙语
Portugal    葡萄牙       Lisbon       里斯本       euro     欧元       Europe   欧洲   Portuguese  葡萄牙语
Greece      希腊         Athens       雅典         euro     欧元       Europe   欧洲   Greek       希腊语
Austria     奥地利       Vienna       维也纳       euro     欧元       Europe   欧洲   German      德语
Finland     芬兰         Helsinki     赫尔辛基     euro     欧元       Europe   欧洲   Finnish     芬兰语
Estonia     爱沙尼亚     Tallinn      塔林         euro     欧元       Europe   欧洲   Estonian    爱沙尼亚语
Latvia      拉脱维亚     Riga         里加         euro     欧元       Europe   欧洲   Latvian     拉脱维亚语
Lithuania   立陶宛       Vilnius      维尔纽斯     euro     欧元       Europe   欧洲   Lithuanian  立陶宛语
Croatia     克罗地亚     Zagreb       萨格勒布     euro     欧元       Europe   欧洲   Croatian    克罗地亚语
Slovenia    斯洛文尼亚   Ljubljana    卢布尔雅那   euro     欧元       Europe   欧洲   Slovene     斯洛文尼亚语
Slovakia    斯洛伐克     Bratislava   布拉迪斯拉发 euro     欧元       Europe   欧洲   Slovak      斯洛伐克语
Poland      波兰         Warsaw       华沙         zloty    兹罗提     Europe   欧洲   Polish      波兰语
Hungary     匈牙利       Budapest     布达佩斯     forint   福林       Europe   欧洲   Hungarian   匈牙利语
Romania     罗马尼亚     Bucharest    布加勒斯特   leu      列伊       Europe   欧洲   Romanian    罗马尼亚语
Czechia     捷克         Prague       布拉格       koruna   捷克克朗   Europe   欧洲   Czech       捷克语
Sweden      瑞典         Stockholm    斯德哥尔摩   krona    瑞典克朗   Europe   欧洲   Swedish     瑞典语
Norway      挪威         Oslo         奥斯陆       krone    挪威克朗   Europe   欧洲   Norwegian   挪威语
Albania     阿尔巴尼亚   Tirana       地拉那       lek      列克       Europe   欧洲   Albanian    阿尔巴尼亚语
Serbia      塞尔维亚     Belgrade     贝尔格莱德   dinar    第纳尔     Europe   欧洲   Serbian     塞尔维亚语
Ukraine     乌克兰       Kyiv         基辅         hryvnia  格里夫纳   Europe   欧洲   Ukrainian   乌克兰语
China       中国         Beijing      北京         renminbi 人民币     Asia     亚洲   Chinese     汉语
Japan       日本         Tokyo        东京         yen      日元       Asia     亚洲   Japanese    日语
Vietnam     越南         Hanoi        河内         dong     越南盾     Asia     亚洲   Vietnamese  越南语
Thailand    泰国         Bangkok      曼谷         baht     泰铢       Asia     亚洲   Thai        泰语
Laos        老挝         Vientiane    万象         kip      基普       Asia     亚洲   Lao         老挝语
Myanmar     缅甸         Naypyidaw    内比都       kyat     缅元       Asia     亚洲   Burmese     缅甸语
Mongolia    蒙古         Ulaanbaatar  乌兰巴托     tugrik   图格里克   Asia     亚洲   Mongolian   蒙古语
Bangladesh  孟加拉国     Dhaka        达卡         taka     塔卡       Asia     亚洲   Bengali     孟加拉语
Nepal       尼泊尔       Kathmandu    加德满都     rupee    卢比       Asia     亚洲   Nepali      尼泊尔语
Bhutan      不丹         Thimphu      廷布         ngultrum 努尔特鲁姆 Asia     亚洲   Dzongkha    宗卡语
Iran        伊朗         Tehran       德黑兰       rial     里亚尔     Asia     亚洲   Persian     波斯语
Oman        阿曼         Muscat       马斯喀特     rial     里亚尔     Asia     亚洲   Arabic      阿拉伯语
Jordan      约旦         Amman        安曼         dinar    第纳尔     Asia     亚洲   Arabic      阿拉伯语
Bahrain     巴林         Manama       麦纳麦       dinar    第纳尔     Asia     亚洲   Arabic      阿拉伯语
Lebanon     黎巴嫩       Beirut       贝鲁特       pound    镑         Asia     亚洲   Arabic      阿拉伯语
Uzbekistan  乌兹别克斯坦 Tashkent     塔什干       som      苏姆       Asia     亚洲   Uzbek       乌兹别克语
Tajikistan  塔吉克斯坦   Dushanbe     杜尚别       somoni   索莫尼     Asia     亚洲   Tajik       塔吉克语
Turkmenistan 土库曼斯坦  Ashgabat     阿什哈巴德   manat    马纳特     Asia     亚洲   Turkmen     土库曼语
Egypt       埃及         Cairo        开罗         pound    镑         Africa   非洲   Arabic      阿拉伯语
Libya       利比亚       Tripoli      的黎波里     dinar    第纳尔     Africa   非洲   Arabic      阿拉伯语
Algeria     阿尔及利亚   Algiers      阿尔及尔     dinar    第纳尔     Africa   非洲   Arabic      阿拉伯语
Morocco     摩洛哥       Rabat        拉巴特       dirham   迪拉姆     Africa   非洲   Arabic      阿拉伯语
Mauritania  毛里塔尼亚   Nouakchott   努瓦克肖特   ouguiya  乌吉亚     Africa   非洲   Arabic      阿拉伯语
Nigeria     尼日利亚     Abuja        阿布贾       naira    奈拉       Africa   非洲   English     英语
Ghana       加纳         Accra        阿克拉       cedi     塞地       Africa   非洲   English     英语
Zambia      赞比亚       Lusaka       卢萨卡       kwacha   克瓦查     Africa   非洲   English     英语
Senegal     塞内加尔     Dakar        达喀尔       franc    法郎       Africa   非洲   French      法语
Gabon       加蓬         Libreville   利伯维尔     franc    法郎       Africa   非洲   French      法语
Guinea      几内亚       Conakry      科纳克里     franc    法郎       Africa   非洲   French      法语
Angola      安哥拉       Luanda       罗安达       kwanza   宽扎       Africa   非洲   Portuguese  葡萄牙语
Mozambique  莫桑比克     Maputo       马普托       metical  梅蒂卡尔   Africa   非洲   Portuguese  葡萄牙语
Madagascar  马达加斯加   Antananarivo 塔那那利佛   ariary   阿里亚里   Africa   非洲   Malagasy    马达加斯加语
Somalia     索马里       Mogadishu    摩加迪沙     shilling 先令       Africa   非洲   Somali      索马里语
Peru        秘鲁         Lima         利马         sol      索尔       Americas 美洲   Spanish     西班牙语
Chile       智利         Santiago     圣地亚哥     peso     比索       Americas 美洲   Spanish     西班牙语
Uruguay     乌拉圭       Montevideo   蒙得维的亚   peso     比索       Americas 美洲   Spanish     西班牙语
Colombia    哥伦比亚     Bogota       波哥大       peso     比索       Americas 美洲   Spanish     西班牙语
Cuba        古巴         Havana       哈瓦那       peso     比索       Americas 美洲   Spanish     西班牙语
Venezuela   委内瑞拉     Caracas      加拉加斯     bolivar  玻利瓦尔   Americas 美洲   Spanish     西班牙语
Honduras    洪都拉斯     Tegucigalpa  特古西加尔巴 lempira  伦皮拉     Americas 美洲   Spanish     西班牙语
Nicaragua   尼加拉瓜     Managua      马那瓜       cordoba  科多巴     Americas 美洲   Spanish     西班牙语
Brazil      巴西         Brasilia     巴西利亚     real     雷亚尔     Americas 美洲   Portuguese  葡萄牙语
Australia   澳大利亚     Canberra     堪培拉       dollar   澳元       Oceania  大洋洲 English     英语
Samoa       萨摩亚       Apia         阿皮亚       tala     塔拉       Oceania  大洋洲 Samoan      萨摩亚语
"""

_ELEMENTS = """
hydrogen  氢 H  1     helium     氦 He 2     lithium   锂 Li 3     beryllium 铍 Be 4     boron     硼 B  5
carbon    碳 C  6     nitrogen   氮 N  7     oxygen    氧 O  8     fluorine  氟 F  9     neon      氖 Ne 10
sodium    钠 Na 11    magnesium  镁 Mg 12    aluminium 铝 Al 13    silicon   硅 Si 14    phosphorus 磷 P 15
sulfur    硫 S  16    chlorine   氯 Cl 17    argon     氩 Ar 18    potassium 钾 K  19    calcium   钙 Ca 20
titanium  钛 Ti 22    chromium   铬 Cr 24    manganese 锰 Mn 25    iron      铁 Fe 26    cobalt    钴 Co 27
nickel    镍 Ni 28    copper     铜 Cu 29    zinc      锌 Zn 30    silver    银 Ag 47    tin       锡 Sn 50
iodine    碘 I  53    tungsten   钨 W  74    platinum  铂 Pt 78    gold      金 Au 79    lead      铅 Pb 82
uranium   铀 U  92
"""

_MONTHS = """
January   一月   31  winter 冬天     February 二月   28  winter 冬天     March    三月   31  spring 春天
April     四月   30  spring 春天     May      五月   31  spring 春天     June     六月   30  summer 夏天
July      七月   31  summer 夏天     August   八月   31  summer 夏天     September 九月  30  autumn 秋天
October   十月   31  autumn 秋天     November 十一月 30  autumn 秋天     December 十二月 31  winter 冬天
"""

_WEEKDAYS = """
Monday 星期一  Tuesday 星期二  Wednesday 星期三  Thursday 星期四  Friday 星期五  Saturday 星期六  Sunday 星期日
"""

_PLANETS = "Mercury 水星  Venus 金星  Earth 地球  Mars 火星  Jupiter 木星  Saturn 土星  Uranus 天王星  Neptune 海王星"

_ANIMALS = """
dog       dogs        狗     puppy       小狗     woof   汪汪  4  mammal    哺乳动物
cat       cats        猫     kitten      小猫     meow   喵喵  4  mammal    哺乳动物
cow       cows        牛     calf        牛犊     moo    哞哞  4  mammal    哺乳动物
sheep     sheep       羊     lamb        羊羔     baa    咩咩  4  mammal    哺乳动物
horse     horses      马     foal        马驹     neigh  咴咴  4  mammal    哺乳动物
pig       pigs        猪     piglet      小猪     oink   哼哼  4  mammal    哺乳动物
deer      deer        鹿     fawn        小鹿     -      -     4  mammal    哺乳动物
lion      lions       狮子   -           -        roar   吼    4  mammal    哺乳动物
tiger     tigers      老虎   -           -        roar   吼    4  mammal    哺乳动物
wolf      wolves      狼     -           -        howl   嗷呜  4  mammal    哺乳动物
bear      bears       熊     -           -        -      -     4  mammal    哺乳动物
elephant  elephants   大象   -           -        -      -     4  mammal    哺乳动物
rabbit    rabbits     兔子   -           -        -      -     4  mammal    哺乳动物
mouse     mice        老鼠   -           -        squeak 吱吱  4  mammal    哺乳动物
camel     camels      骆驼   -           -        -      -     4  mammal    哺乳动物
kangaroo  kangaroos   袋鼠   joey        小袋鼠   -      -     -  mammal    哺乳动物
whale     whales      鲸     -           -        -      -     0  mammal    哺乳动物
hen       hens        母鸡   chick       小鸡     cluck  咯咯  2  bird      鸟
duck      ducks       鸭子   duckling    小鸭     quack  嘎嘎  2  bird      鸟
goose     geese       鹅     gosling     小鹅     -      -     2  bird      鸟
swan      swans       天鹅   cygnet      小天鹅   -      -     2  bird      鸟
eagle     eagles      鹰     eaglet      雏鹰     -      -     2  bird      鸟
pigeon    pigeons     鸽子   squab       雏鸽     coo    咕咕  2  bird      鸟
sparrow   sparrows    麻雀   -           -        chirp  啾啾  2  bird      鸟
penguin   penguins    企鹅   -           -        -      -     2  bird      鸟
frog      frogs       青蛙   tadpole     蝌蚪     croak  呱呱  4  amphibian 两栖动物
snake     snakes      蛇     -           -        hiss   嘶嘶  0  reptile   爬行动物
turtle    turtles     乌龟   -           -        -      -     4  reptile   爬行动物
shark     sharks      鲨鱼   -           -        -      -     0  fish      鱼
carp      carp        鲤鱼   -           -        -      -     0  fish      鱼
bee       bees        蜜蜂   -           -        buzz   嗡嗡  6  insect    昆虫
ant       ants        蚂蚁   -           -        -      -     6  insect    昆虫
butterfly butterflies 蝴蝶   caterpillar 毛毛虫   -      -     6  insect    昆虫
spider    spiders     蜘蛛   spiderling  小蜘蛛   -      -     8  arachnid  蛛形动物
"""


def rows(text: str, width: int) -> list[tuple[str, ...]]:
    """The words of `text` in rows of `width`."""
    words = text.split()
    assert len(words) % width == 0, f"{len(words)} words do not fill rows of {width}"
    return [tuple(words[start : start + width]) for start in range(0, len(words), width)]


def _pair(english: str, chinese: str) -> Pair | None:
    return None if english == "-" else Pair(english, chinese)


def _animal(row: tuple[str, ...]) -> Animal:
    name, plural, chinese, young, young_chinese, sound, sound_chinese, legs, group, group_chinese = row
    return Animal(
        Pair(name, chinese),
        plural,
        _pair(young, young_chinese),
        _pair(sound, sound_chinese),
        None if legs == "-" else int(legs),
        Pair(group, group_chinese),
    )


COUNTRIES = tuple(Country(*map(Pair, row[::2], row[1::2])) for row in rows(_COUNTRIES, 10))
ELEMENTS = tuple(Element(Pair(*row[:2]), row[2], int(row[3])) for row in rows(_ELEMENTS, 4))
MONTHS = tuple(
    Month(Pair(*row[:2]), number, int(row[2]), Pair(*row[3:])) for number, row in enumerate(rows(_MONTHS, 5), 1)
)
WEEKDAYS = tuple(Weekday(Pair(*row), number > 5) for number, row in enumerate(rows(_WEEKDAYS, 2), 1))
PLANETS = tuple(Planet(Pair(*row), position) for position, row in enumerate(rows(_PLANETS, 2), 1))
ANIMALS = tuple(map(_animal, rows(_ANIMALS, 10)))
